"""torchvision's names of the parts of its detectors; `torch_names` of a model, which the converter asks."""

# Regular expressions for the beginning of PyTorch's key, were the parts called as here -> torchvision's.
Names = tuple[tuple[str, str], ...]
PYRAMID_NAMES: Names = (
    (r"backbone\.(?:features\.)?", "backbone.body."),
    (r"neck\.lateral_convs\.(\d)\.conv", r"backbone.fpn.inner_blocks.\1.0"),
    (r"neck\.lateral_convs\.(\d)\.bn", r"backbone.fpn.inner_blocks.\1.1"),
)
LEVEL_NAMES: Names = (
    (r"neck\.fpn_convs\.(\d)\.conv", r"backbone.fpn.layer_blocks.\1.0"),
    (r"neck\.fpn_convs\.(\d)\.bn", r"backbone.fpn.layer_blocks.\1.1"),
)
RCNN_NAMES: Names = (
    *PYRAMID_NAMES,
    *LEVEL_NAMES,
    (r"rpn_head\.rpn_conv\.(\d)\.conv", r"rpn.head.conv.\1.0"),
    (r"rpn_head\.rpn_conv", "rpn.head.conv.0.0"),
    (r"rpn_head\.rpn_cls", "rpn.head.cls_logits"),
    (r"rpn_head\.rpn_reg", "rpn.head.bbox_pred"),
    (r"roi_head\.bbox_head\.fc_cls", "roi_heads.box_predictor.cls_score"),
    (r"roi_head\.bbox_head\.fc_reg", "roi_heads.box_predictor.bbox_pred"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv", r"roi_heads.mask_head.\1.0"),
    (r"roi_head\.mask_head\.convs\.(\d)\.bn", r"roi_heads.mask_head.\1.1"),
    (r"roi_head\.mask_head\.upsample", "roi_heads.mask_predictor.conv5_mask"),
    (r"roi_head\.mask_head\.conv_logits", "roi_heads.mask_predictor.mask_fcn_logits"),
)
FIRST_NAMES: Names = (
    *RCNN_NAMES,
    (r"roi_head\.bbox_head\.shared_fcs\.0", "roi_heads.box_head.fc6"),
    (r"roi_head\.bbox_head\.shared_fcs\.1", "roi_heads.box_head.fc7"),
)
SECOND_NAMES: Names = (
    *RCNN_NAMES,
    (r"roi_head\.bbox_head\.shared_convs\.(\d)\.conv", r"roi_heads.box_head.\1.0"),
    (r"roi_head\.bbox_head\.shared_convs\.(\d)\.bn", r"roi_heads.box_head.\1.1"),
    (r"roi_head\.bbox_head\.shared_fcs\.0", "roi_heads.box_head.5"),
)
DEEP_NAMES: Names = (
    *PYRAMID_NAMES,
    (r"neck\.fpn_convs\.3\.conv", "backbone.fpn.extra_blocks.p6"),
    (r"neck\.fpn_convs\.4\.conv", "backbone.fpn.extra_blocks.p7"),
    *LEVEL_NAMES,
)
RETINANET_NAMES: Names = (
    *DEEP_NAMES,
    (r"bbox_head\.cls_convs\.(\d)\.conv", r"head.classification_head.conv.\1.0"),
    (r"bbox_head\.cls_convs\.(\d)\.gn", r"head.classification_head.conv.\1.1"),
    (r"bbox_head\.reg_convs\.(\d)\.conv", r"head.regression_head.conv.\1.0"),
    (r"bbox_head\.reg_convs\.(\d)\.gn", r"head.regression_head.conv.\1.1"),
    (r"bbox_head\.retina_cls", "head.classification_head.cls_logits"),
    (r"bbox_head\.retina_reg", "head.regression_head.bbox_reg"),
)
FCOS_NAMES: Names = (
    *DEEP_NAMES,
    *(
        (rf"bbox_head\.{ours}_convs\.{index}\.{layer}", f"head.{theirs}_head.conv.{3 * index + offset}")
        for ours, theirs in (("cls", "classification"), ("reg", "regression"))
        for index in range(4)
        for offset, layer in enumerate(("conv", "gn"))
    ),
    (r"bbox_head\.conv_cls", "head.classification_head.cls_logits"),
    (r"bbox_head\.conv_reg", "head.regression_head.bbox_reg"),
    (r"bbox_head\.conv_centerness", "head.regression_head.bbox_ctrness"),
)
