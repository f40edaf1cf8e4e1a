"""Modalities of images, as DICOM names them. Nothing is imported here, so that a configuration needs no reader."""

# fmt: off
MODALITIES = frozenset((
    "AR", "BI", "BMD", "CFM", "CR", "CT", "DG", "DMS", "DX", "ES", "FA", "FID", "FS", "GM", "IO", "IVOCT",
    "IVUS", "KER", "LEN", "LS", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV",
    "OT", "PT", "PX", "RF", "RG", "RTIMAGE", "SEG", "SM", "SMR", "SRF", "TG", "US", "VA", "XA", "XC",
))
# fmt: on
"""The defined terms of DICOM PS3.3, C.7.3.1.1.1, that stand for images."""
