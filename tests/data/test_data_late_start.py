"""Films whose first picture comes after time 0: sound that begins first, or a cut that kept the times."""

from fractions import Fraction

import numpy as np
import pytest

from worldkit.data import validate
from worldkit.data.decode import _stated_seconds, decode_video
from worldkit.errors import DataError

av = pytest.importorskip("av")
FRAMES, RATE = 60, 30
CODECS = {
    ".mkv": "libx264", ".webm": "libvpx-vp9", ".mp4": "libx264", ".wmv": "wmv2", ".ts": "libx264", ".avi": "mpeg4",
}


def film(path, start, sound=False):
    """A film of `FRAMES` frames whose first one is shown at ``start`` seconds."""
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, 32, 32, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        picture = container.add_stream(CODECS[path.suffix], rate=RATE)
        picture.height, picture.width, picture.pix_fmt = 32, 32, "yuv420p"
        tone = container.add_stream("libopus", rate=48000) if sound else None
        if tone is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="flt", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 48000, 0, Fraction(1, 48000)
            container.mux(tone.encode(silence))
            container.mux(tone.encode())
        for number, frame in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
            shown.pts, shown.time_base = number + round(start * RATE), Fraction(1, RATE)
            container.mux(picture.encode(shown))
        container.mux(picture.encode())
    return path


@pytest.mark.parametrize("suffix", list(CODECS))
@pytest.mark.parametrize("start", [0, 0.5, 2.0])
def test_all_frames_are_read(tmp_path, suffix, start):
    path = film(tmp_path / f"film{suffix}", start)
    assert sum(1 for _ in decode_video(path, 32, 32)) == FRAMES
    assert validate(str(path)).faults == []


def test_sound_may_begin_first(tmp_path):
    path = film(tmp_path / "film.webm", 0.4, sound=True)
    assert sum(1 for _ in decode_video(path, 32, 32)) == FRAMES


@pytest.mark.parametrize("suffix, start", [(".mkv", 0.5), (".mkv", 0), (".webm", 2.0), (".mkv", 2.0)])
def test_a_film_cut_off_at_its_end_is_refused(tmp_path, suffix, start):
    path = film(tmp_path / f"film{suffix}", start)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.raises(DataError, match="truncated or damaged"):
        list(decode_video(path, 32, 32))


def test_statistics_of_mkvmerge_count_from_the_first_frame(tmp_path):
    path = film(tmp_path / "film.mkv", 2.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert _stated_seconds(container, stream) == (pytest.approx(2 + FRAMES / RATE), True)
        tags = {"DURATION-eng": "00:00:02.000000000", "_STATISTICS_TAGS-eng": "BPS DURATION"}
        assert _stated_seconds(container, _Stream(tags)) == (2.0, False)


class _Stream:
    duration = None

    def __init__(self, metadata):
        self.metadata = metadata
