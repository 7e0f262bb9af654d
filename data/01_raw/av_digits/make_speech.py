"""Make the bundled sample anew: spoken digits with espeak-ng, handwritten digits from scikit-learn.

    apt-get install espeak-ng            # 1.51 made the committed files
    pip install numpy scipy scikit-learn soundfile
    python data/01_raw/av_digits/make_speech.py [--out FOLDER]

Nobody needs to run it to use the sample: its files are committed. The same espeak-ng and libFLAC give the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly
from sklearn.datasets import load_digits

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RATE = 8_000  # Hz
LONGEST = 1.0  # seconds
PEAK = 0.1  # of full scale: quieter files are smaller, and the pipeline divides by the peak anyway
SILENCE = 0.02  # of the peak: what is quieter at either end is cut
MARGIN = 0.015  # seconds kept before and after the word

# name of the voice: (accent, variant, pitch 0-99, words a minute)
VOICES = {
    "adam": ("en-us", "adam", 45, 185),
    "alicia": ("en-us", "Alicia", 55, 180),
    "andrea": ("en-gb", "Andrea", 60, 190),
    "andy": ("en-gb", "Andy", 40, 200),
    "annie": ("en-gb-scotland", "Annie", 55, 180),
    "antonio": ("en-029", "antonio", 45, 190),
    "auntie": ("en-gb-x-rp", "aunty", 50, 175),
    "belinda": ("en-gb-x-gbcwmd", "belinda", 55, 195),
    "boris": ("en-gb", "boris", 30, 185),
    "croak": ("en-gb-x-gbclan", "croak", 40, 190),
    "david": ("en-us", "david", 50, 205),
    "denis": ("en-gb-x-rp", "Denis", 40, 180),
    "ed": ("en-us-nyc", "ed", 45, 195),
    "edward": ("en-gb-x-rp", "edward", 45, 200),
    "f1": ("en-gb", "f1", 65, 185),
    "f2": ("en-us", "f2", 55, 195),
    "f3": ("en-gb-scotland", "f3", 60, 190),
    "f4": ("en-us-nyc", "f4", 50, 180),
    "f5": ("en-029", "f5", 60, 200),
    "gene": ("en-us", "Gene", 35, 190),
    "grandma": ("en-gb-x-gbclan", "grandma", 60, 180),
    "grandpa": ("en-gb-x-gbcwmd", "grandpa", 35, 180),
    "klatt2": ("en-us", "klatt2", 45, 190),
    "klatt4": ("en-gb", "klatt4", 55, 200),
    "linda": ("en-us", "linda", 65, 200),
    "m1": ("en-gb-scotland", "m1", 40, 185),
    "m2": ("en-us", "m2", 60, 200),
    "m3": ("en-gb", "m3", 50, 190),
    "m4": ("en-us-nyc", "m4", 35, 205),
    "m5": ("en-029", "m5", 45, 185),
    "m6": ("en-gb-x-gbclan", "m6", 55, 195),
    "m7": ("en-gb-x-gbcwmd", "m7", 50, 200),
    "mario": ("en-us", "Mario", 55, 190),
    "michael": ("en-gb", "michael", 45, 185),
    "steph": ("en-gb-x-rp", "steph", 60, 190),
    "whisper": ("en-gb", "whisper", 50, 185),
}


def synthesise(word: str, accent: str, variant: str, pitch: int, speed: int) -> np.ndarray:
    """One word, trimmed and at most `LONGEST` seconds: int16 [samples] at `RATE`."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "word.wav"
        command = ["espeak-ng", "-v", f"{accent}+{variant}", "-p", str(pitch), "-s", str(speed), "-w", str(wav), word]
        subprocess.run(command, check=True, capture_output=True)
        wave, rate = soundfile.read(wav)
    common = np.gcd(rate, RATE)
    wave = resample_poly(wave, RATE // common, rate // common)
    wave = wave / np.abs(wave).max()
    loud = np.flatnonzero(np.abs(wave) > SILENCE)
    margin = int(MARGIN * RATE)
    wave = wave[max(loud[0] - margin, 0) : loud[-1] + margin][: int(LONGEST * RATE)]
    return np.round(wave * PEAK * 32767).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    (out / "speech").mkdir(parents=True, exist_ok=True)
    for name, voice in VOICES.items():
        for digit, word in enumerate(WORDS):
            soundfile.write(out / "speech" / f"{digit}_{name}.flac", synthesise(word, *voice), RATE, subtype="PCM_16")
    digits = load_digits()
    np.save(out / "digits.npy", np.round(digits.images * 255 / 16).astype(np.uint8))
    np.save(out / "digits_target.npy", digits.target.astype(np.uint8))


if __name__ == "__main__":
    main()
