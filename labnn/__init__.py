"""SqueezeNet with AMSGrad and Adam on Stanford Cars: the laboratory work's module."""
