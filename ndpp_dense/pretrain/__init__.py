"""ImageNet pretraining of backbones on timm's data pipeline, optimizers and schedules."""
