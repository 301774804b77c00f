"""Nodes for ComfyUI: what they do in `functions`, how they look in `nodes`, how they get there in `install`."""
