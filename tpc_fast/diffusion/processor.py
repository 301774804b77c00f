"""The attention processor that reads calibrated references."""


class ReferenceAttnProcessor:
    """Self-attention whose conditional rows also see the visible tokens of the bank.

    Off (outside a UNet call that `CalibrationState` has opened) it is the processor that it stands for.

    Args:
        state: the CalibrationState of the pipeline.
        name: of the attention module.
        original: the processor that it replaces.
    """

    # diffusers sets these on every processor that has them; the bank is read by our own operation with any backend.
    _attention_backend = None
    _parallel_config = None

    def __init__(self, state, name: str, original):
        self.state, self.name, self.original = state, name, original

    def __call__(self, attn, hidden_states, *args, **kwargs):
        if not self.state.enabled:
            return self.original(attn, hidden_states, *args, **kwargs)
        heads = (*hidden_states.shape[:2], attn.heads, -1)
        q, k, v = (project(hidden_states).view(heads) for project in (attn.to_q, attn.to_k, attn.to_v))
        out = self.state.attend(self.name, attn, q, k, v)
        out = attn.to_out[0](out.flatten(2))
        return attn.to_out[1](out)
