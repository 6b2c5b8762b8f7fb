"""The MXNet backend. Only `catalog` and `pretrained_state` can be used without MXNet."""
