# ND++ on CamVid. The paper's settings by --cfg-options model.ndpp.preset=paper.
_base_ = "./deeplabv3_r18_syncbn_camvid.py"
model = dict(type="NDPPModel", ndpp=dict(architecture="EncoderDecoder", preset="fast", task="cityscapes"))
