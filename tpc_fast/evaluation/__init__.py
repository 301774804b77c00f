"""How good alignments are: methods compared on clips, with their metrics, tables and plots.

`evaluate` runs it all and writes a folder; the parts serve alone: `find_clips`, `observe`, `align`, `measure`, and the
metrics in `tpc_fast.evaluation.metrics` (alignments), `.images` (pixels), `.networks` (LPIPS, FID, FID-VID, FVD) and
`.animation` (videos of a model, propagation).
"""
