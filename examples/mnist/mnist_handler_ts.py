"""The handler of TorchServe's MNIST tutorial: it extends the stock `ImageClassifier` and needs nothing of ours."""

from torch.profiler import ProfilerActivity
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class MNISTDigitClassifier(ImageClassifier):
    """A handler that names the digit in a grey image of 28 x 28 pixels."""

    image_processing = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __init__(self):
        super().__init__()
        self.profiler_args = {"activities": [ProfilerActivity.CPU], "record_shapes": True}

    def postprocess(self, data):
        """Turn the model's output, `[batch, 10]`, into one digit for each image."""
        return data.argmax(1).tolist()
