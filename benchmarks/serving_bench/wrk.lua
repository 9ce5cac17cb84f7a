-- Posts the files named after `--` in turn; prints the figures as one line of JSON, as driver.py reads it.
local requests, turn = {}, 0

function init(arguments)
  for index = 1, #arguments do
    local file = assert(io.open(arguments[index], "rb"))
    local headers = {["Content-Type"] = "application/octet-stream"}
    requests[index] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local seconds, errors = summary.duration / 1e6, summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "rps": %.3f, "p50_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f, "errors": %d}',
    summary.requests, seconds, (summary.requests - errors.status) / seconds, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, failed))
end
