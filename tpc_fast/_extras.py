"""How to get what is not installed, by extra of pyproject.toml.

The package is on no package index: what works wherever it came from is to name what the extra would bring.
"""

_TORCH = '"torch>=2.11" "triton>=3.6"'  # triton is for Linux only, and there torch brings it

#: A test holds these against pyproject.toml.
INSTALL = {
    "demo": 'pip install "ai-edge-litert>=2.3" "platformdirs>=4" "scikit-image>=0.24"',
    "mediapipe": "pip install mediapipe==0.10.21",
    "torch": f"pip install {_TORCH}",
    "diffusion": f'pip install {_TORCH} "diffusers>=0.42" "transformers>=5" "accelerate>=1"',
    "app": 'pip install "gradio>=6.31,<7"',
    "heic": 'pip install "pillow-heif>=1"',
    "datasets": 'pip install "ray[data]>=2.50,<2.64" "pyarrow>=18" "fsspec>=2024.2"',
    "docs": 'pip install "mkdocs-material>=9.6,<10" "mkdocstrings[python]>=0.30"',
    "provenance": 'pip install "c2pa-python>=0.38" "cryptography>=44"',
    "completion": 'pip install "shtab>=1.7"',
    "evaluate": f'pip install {_TORCH} "torchmetrics>=1.9"',
}
