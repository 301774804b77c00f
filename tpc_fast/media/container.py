"""Files of film and sound, opened for reading: files only, in formats that hold their own content."""

import os

# What is looked for in a file, whatever its name: films that hold their own frames. Playlists and scripts, which name
# other files or addresses (HLS, DASH, concat, SDP ...), text as film, and patterns of pictures are not.
FORMATS = (
    "asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,webm,mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,"
    "rm,yuv4mpegpipe"
)
SOUND_FORMATS = f"{FORMATS},aac,flac,mp3,wav"


def open_container(path: str | os.PathLike, formats: str = FORMATS):
    """PyAV's container of a file.

    Args:
        path: the file.
        formats: names of FFmpeg's, with commas between.

    Raises:
        av.error.FFmpegError, OSError, ValueError: as PyAV does; ValueError if it is a pipe or a device.
    """
    import av

    if not os.path.isfile(path):  # a pipe waits for ever, a device does not end
        raise ValueError("it is not a file")
    # A name with a colon is an address to FFmpeg, hence the whole path, its protocol and no other.
    options = {"protocol_whitelist": "file", "format_whitelist": formats}
    # Titles are often in Latin-1, which PyAV reads from version 19 on without being told.
    lenient = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    return av.open(f"file:{os.path.abspath(path)}", options=options, **lenient)
