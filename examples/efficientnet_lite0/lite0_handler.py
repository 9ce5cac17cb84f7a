"""Classification of an image: PNG, JPEG or another format in, the five most probable classes of ImageNet out."""

from torchvision import transforms

from handlers import ImageClassifier


class Lite0Classifier(ImageClassifier):
    """A handler that prepares images as in the network's training at Google: its pixels go from -0.99 to 1."""

    image_mode = "RGB"
    image_processing = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3),
        ]
    )
