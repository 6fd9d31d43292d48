"""What Parquill ships beside its code: vocabularies, prices, samples, jobs."""

from pathlib import Path

FOLDER = Path(__file__).parent
