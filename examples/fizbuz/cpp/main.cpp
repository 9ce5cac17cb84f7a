// Says what a player of fizz buzz says at some numbers: fizbuz MODEL NUMBER...
//
// MODEL is the TorchScript file that train.py writes. Its method `say` has loops and branches, which run here as they do in
// Python.

#include <torch/script.h>

#include <cstdint>
#include <exception>
#include <iostream>
#include <string>

int main(int count, const char* const arguments[]) {
  if (count < 3) {
    std::cerr << "usage: fizbuz MODEL NUMBER...\n";
    return 2;
  }
  try {
    torch::jit::Module model = torch::jit::load(arguments[1]);
    model.eval();
    for (int place = 2; place < count; ++place) {
      const std::int64_t number = std::stoll(arguments[place]);
      std::cout << number << ' ' << model.run_method("say", number).toStringRef() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << "fizbuz: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
