"""Classification of photographs as for ImageNet: JPEG in, the five most probable classes out."""

from handlers import ImageClassifier


class ResNet18Classifier(ImageClassifier):
    """The defaults of `ImageClassifier`, under a name of its own."""
