"""Invisible watermarks of invisible-watermark 0.2.0: what they cost, and what they survive.

`pip install --no-deps invisible-watermark PyWavelets`, beside the extras `demo` and `bench`, and onnxruntime; then
`python benchmarks/watermarks.py`.
"""

import io
import time

import av
import numpy as np
from imwatermark import WatermarkDecoder, WatermarkEncoder
from PIL import Image

from tpc_fast import demo

FRAMES, SIDE, BITS = 8, 512, 32


def h264(frames, crf):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", 30, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as source:
        return [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]


def jpeg(frame, quality):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


def main():
    photo = np.asarray(Image.fromarray(demo.load_photo()).resize((SIDE, SIDE)))
    frames = [np.roll(photo, 4 * i, 1) for i in range(FRAMES)]
    bits = np.random.default_rng(0).integers(0, 2, BITS).tolist()
    WatermarkEncoder.loadModel()
    for method in ("dwtDct", "dwtDctSvd", "rivaGan"):
        encoder, decoder = WatermarkEncoder(), WatermarkDecoder("bits", BITS)
        encoder.set_watermark("bits", bits)
        started = time.process_time()
        marked = [encoder.encode(frame[..., ::-1].copy(), method)[..., ::-1] for frame in frames]
        seconds = (time.process_time() - started) / FRAMES
        error = np.mean((np.stack(marked).astype(float) - np.stack(frames)) ** 2)
        print(f"{method}: PSNR {10 * np.log10(255**2 / error):.1f} dB, {1000 * seconds:.0f} ms of CPU time a frame")
        for name, seen in {
            "as it is": marked,
            **{f"H.264 CRF {crf}": h264(marked, crf) for crf in (18, 23, 28)},
            **{f"JPEG {quality}": [jpeg(frame, quality) for frame in marked] for quality in (75, 50)},
            "scaled to 0.75": [np.asarray(Image.fromarray(frame).resize((384, 384))) for frame in marked],
            "cropped to 480": [frame[16:496, 16:496] for frame in marked],
            "unmarked": frames,
        }.items():
            right = [np.mean(np.array(decoder.decode(frame[..., ::-1].copy(), method)) == bits) for frame in seen]
            print(f"  {name}: {np.mean(right):.1%} of the bits")


if __name__ == "__main__":
    main()
