"""The nodes, in ComfyUI's V3 schema. Imported by ComfyUI only, through the loader that `install` writes."""

from pathlib import Path

from comfy_api.v0_0_2 import ComfyExtension, io

from tpc_fast.calibration.proportions import BOUNDS
from tpc_fast.calibration.retarget import MODES
from tpc_fast.comfyui import functions

CATEGORY = "tpc_fast"
CalibrationType = io.Custom("TPC_CALIBRATION")
PoseKeypoint = io.Custom("POSE_KEYPOINT")
PoseData = io.Custom("POSEDATA")


def _progress(stages: int = 1, stage: int = 0):
    """ComfyUI's own bar, as `progress(done, total)`; raises when the user interrupts."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(1)

    def progress(done, total):
        throw_exception_if_processing_interrupted()
        total = max(total or done + 1, done)
        bar.update_absolute(stage * total + done, stages * total)

    return progress


def _tensors(*arrays) -> list:
    import torch

    return [torch.from_numpy(array) for array in arrays]


class Calibrate(io.ComfyNode):
    """Photo and video in, calibrated frames out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TpcFastCalibrate",
            display_name="Calibrate photo to video",
            category=CATEGORY,
            description="Brings the person of a photo onto the person of a video, frame by frame.",
            inputs=[
                io.Image.Input("reference", tooltip="photo of the person; the first picture of a batch"),
                io.Image.Input("driving", optional=True, tooltip="frames of the motion"),
                io.Video.Input("video", optional=True, tooltip="or a video, whose frame rate is then used"),
                io.Mask.Input("reference_mask", optional=True),
                io.Mask.Input("driving_mask", optional=True, tooltip="needs driving_pose"),
                PoseKeypoint.Input("reference_pose", optional=True, tooltip="then no detector looks at the photo"),
                PoseKeypoint.Input("driving_pose", optional=True, tooltip="then no detector looks at the video"),
                io.Int.Input("width", default=512, min=16, max=4096, step=16),
                io.Int.Input("height", default=512, min=16, max=4096, step=16),
                io.Float.Input("fps", default=16.0, min=1.0, max=240.0, tooltip="of driving; a video has its own"),
                io.Combo.Input("resize", options=["pad", "stretch"], default="pad"),
                io.Combo.Input("smooth", options=["offline", "causal", "none"], default="offline"),
                io.Combo.Input("motion", options=["frame", "constant"], default="frame"),
                io.String.Input(
                    "detector",
                    default="",
                    optional=True,
                    tooltip="empty: what is installed; blazepose:people=2 follows two persons; rtmlib, mmpose",
                ),
                io.String.Input(
                    "match",
                    default="auto",
                    optional=True,
                    tooltip="who plays whom: auto, left-to-right, or pairs photo:video as 0:1,1:0",
                ),
                io.String.Input(
                    "depth",
                    default="auto",
                    optional=True,
                    tooltip="who stands in front: auto, or the persons from back to front as 1,0",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="calibrated"),
                io.Mask.Output(display_name="mask"),
                io.Mask.Output(display_name="pose_mask"),
                io.Image.Output(display_name="composite"),
                CalibrationType.Output(display_name="calibration"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls, reference, width, height, fps, resize, smooth, motion, driving=None, video=None, reference_mask=None,
        driving_mask=None, reference_pose=None, driving_pose=None, detector=None, match=None, depth=None,
    ):  # fmt: skip
        if (driving is None) == (video is None):
            raise ValueError("driving or video must be given, and not both")
        if video is not None:
            parts = video.get_components()
            driving, fps = parts.images, float(parts.frame_rate)
        calibration = functions.calibrate(
            reference, driving, fps, reference_mask, reference_pose, driving_pose, driving_mask,
            progress=_progress(2), size=(height, width), resize=resize, smooth=smooth, motion=motion,
            **functions.choices(detector, match, depth),
        )  # fmt: skip
        found = functions.rendered(calibration, _progress(2, 1))
        return io.NodeOutput(*_tensors(*found), calibration, functions.report(calibration))


class Retarget(io.ComfyNode):
    """The driving skeletons moved to the photo's person."""

    @classmethod
    def define_schema(cls):
        bound = {"min": 0.01, "max": 100.0, "step": 0.05}
        return io.Schema(
            node_id="TpcFastRetarget",
            display_name="Retarget pose to photo",
            category=CATEGORY,
            description="Moves the driving skeletons to the photo's person, with the photo's proportions.",
            inputs=[
                CalibrationType.Input("calibration"),
                PoseKeypoint.Input("pose_keypoint", optional=True, tooltip="of the driving video, with hands and face"),
                PoseData.Input("pose_data", optional=True, tooltip="or this"),
                io.Combo.Input("place", options=list(MODES), default=MODES[0]),
                io.Float.Input("shortest", default=BOUNDS[0], **bound, tooltip="limbs are shortened to this share"),
                io.Float.Input("longest", default=BOUNDS[1], **bound, tooltip="and lengthened to this"),
                io.Boolean.Input("reframe", default=False, tooltip="show as much around the photo as is needed"),
            ],
            outputs=[
                PoseKeypoint.Output(display_name="pose_keypoint"),
                PoseData.Output(display_name="pose_data"),
                io.Image.Output(display_name="pose_video"),
                io.Image.Output(display_name="photo"),
                io.String.Output(display_name="outside"),
            ],
        )

    @classmethod
    def execute(cls, calibration, place, shortest, longest, reframe, pose_keypoint=None, pose_data=None):
        found = functions.retarget(
            calibration, pose_keypoint, pose_data, place, (shortest, longest), reframe, _progress()
        )
        pictures = _tensors(found.picture, found.photo)
        return io.NodeOutput(found.pose_keypoint, found.posedata, *pictures, found.text)


class IdentityMasks(io.ComfyNode):
    """The same colour for the same person in photo and video."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TpcFastIdentityMasks",
            display_name="Identity masks",
            category=CATEGORY,
            description="Colours that say who plays whom, as WanSCAILToVideo reads them.",
            inputs=[
                CalibrationType.Input("calibration"),
                io.Combo.Input("purpose", options=list(functions.BACKGROUNDS), default="animation"),
            ],
            outputs=[
                io.Image.Output(display_name="reference_image_mask"),
                io.Image.Output(display_name="pose_video_mask"),
            ],
        )

    @classmethod
    def execute(cls, calibration, purpose):
        return io.NodeOutput(*_tensors(*functions.identity_masks(calibration, purpose, _progress())))


class OnCanvas(io.ComfyNode):
    """Photo and video where masks and poses are."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TpcFastOnCanvas",
            display_name="Photo and video on the canvas",
            category=CATEGORY,
            description="The photo and the video as they are, on the calibration's canvas, so that masks fit them.",
            inputs=[CalibrationType.Input("calibration")],
            outputs=[io.Image.Output(display_name="photo"), io.Image.Output(display_name="video")],
        )

    @classmethod
    def execute(cls, calibration):
        return io.NodeOutput(*_tensors(*functions.on_canvas(calibration, _progress())))


class Inspect(io.ComfyNode):
    """How far photo and video are apart."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TpcFastInspect",
            display_name="Inspect calibration",
            category=CATEGORY,
            description="Frames of the video, the photo as it is, and the photo calibrated to them.",
            inputs=[CalibrationType.Input("calibration")],
            outputs=[io.Image.Output(display_name="picture"), io.String.Output(display_name="report")],
        )

    @classmethod
    def execute(cls, calibration):
        return io.NodeOutput(*_tensors(functions.inspect(calibration)), functions.report(calibration))


class SaveCalibration(io.ComfyNode):
    """Keeps a calibration in a folder of ComfyUI's output."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TpcFastSaveCalibration",
            display_name="Save calibration",
            category=CATEGORY,
            description="Writes calibration.json, reference.png and masks.npz into a folder of the output folder.",
            inputs=[
                CalibrationType.Input("calibration"),
                io.String.Input("name", default="calibration"),
                io.Boolean.Input("overwrite", default=False, tooltip="replace a calibration of this name"),
            ],
            outputs=[io.String.Output(display_name="folder")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, calibration, name, overwrite):
        folder = _folder(name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        calibration.save(folder, overwrite)
        return io.NodeOutput(str(folder))


class LoadCalibration(io.ComfyNode):
    """A calibration that was saved."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TpcFastLoadCalibration",
            display_name="Load calibration",
            category=CATEGORY,
            description="Reads what Save calibration wrote, and renders it again.",
            inputs=[io.String.Input("name", default="calibration")],
            outputs=[
                io.Image.Output(display_name="calibrated"),
                io.Mask.Output(display_name="mask"),
                io.Mask.Output(display_name="pose_mask"),
                io.Image.Output(display_name="composite"),
                CalibrationType.Output(display_name="calibration"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name):
        record = _folder(name) / "calibration.json"
        return record.stat().st_mtime_ns if record.exists() else 0

    @classmethod
    def execute(cls, name):
        import folder_paths

        others = folder_paths.get_input_directory(), folder_paths.get_temp_directory()
        calibration = functions.load(folder_paths.get_output_directory(), name, *others)
        return io.NodeOutput(*_tensors(*functions.rendered(calibration, _progress())), calibration)


def _folder(name: str) -> Path:
    import folder_paths

    return functions.inside(folder_paths.get_output_directory(), name)


NODES = [Calibrate, Retarget, IdentityMasks, OnCanvas, Inspect, SaveCalibration, LoadCalibration]


class Extension(ComfyExtension):
    """What ComfyUI asks for."""

    async def get_node_list(self):
        return list(NODES)


async def comfy_entrypoint() -> Extension:
    """Called by ComfyUI."""
    return Extension()
