"""The allow-list: attributes that describe an image and cannot name a person.

An attribute that is neither here nor in the standard's table is removed. Sources: the image, plane,
CT, MR, PET, US, CR, DX and mammography modules and enhanced functional groups of PS3.3; defined
terms from the same chapters; ranges from what scanners can physically do.
"""

from __future__ import annotations

from collections.abc import Mapping


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split())


_YES_NO = _terms("YES NO Y N")
_ORIENTATION = frozenset(
    "".join(parts)
    for a in "LRAPHF"
    for parts in [
        (a,),
        *((a, b) for b in "LRAPHF"),
        *((a, b, c) for b in "LRAPHF" for c in "LRAPHF"),
    ]
)

MODALITIES = _terms(
    "CR CT DX IO MG MR NM OP OPT OT PT PX RF RG SC US XA XC ES GM SM DF DS BI DM DG IVUS IVOCT TG"
)

CODES: Mapping[str, frozenset[str]] = {
    "Modality": MODALITIES,
    "ImageType": _terms(
        "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER MPR MIP MINIP CURVED REFORMATTED "
        "AVERAGE VOLUME PROJECTION RESAMPLED FILTERED OTHER NONE M M_SE M_FFE P R I ND NORM DIS2D "
        "DIS3D FFE SE SFOV FM MFSPLIT MOSAIC DIFFUSION TRACEW ADC FA EPI TSE SINGLE BIPLANE "
        "EMISSION TRANSMISSION STATIC DYNAMIC GATED TOMO RECON WHOLE BODY MIXED ABDOMINAL VASCULAR "
        "CARDIAC OBSTETRICAL BREAST 2D_IMAGING 3D_RENDERING POST_PROCESSED SUBTRACT WATER FAT "
        "IN_PHASE OUT_OF_PHASE T1 T2 T2_STAR PROTON_DENSITY PERFUSION PHASE MAGNITUDE REAL "
        "IMAGINARY CSA CSAPARALLEL HELIX CT_SOM5 SPI VIRTUAL_MONOCHROMATIC MONO ENERGY "
        "QUANTITATIVE MAXIMUM MINIMUM MEAN MEDIAN STANDARD SURFACE_DOSE DIXON"
    ),
    "PhotometricInterpretation": _terms("MONOCHROME1 MONOCHROME2 RGB"),
    "PresentationIntentType": _terms("FOR PRESENTATION PROCESSING")
    | frozenset(("FOR PRESENTATION", "FOR PROCESSING")),
    "RescaleType": _terms("HU US OD HU_MOD PCT BQML CNTS SUV MGML Z_EFF ED EDW"),
    "VOILUTFunction": _terms("LINEAR LINEAR_EXACT SIGMOID"),
    "PresentationLUTShape": _terms("IDENTITY INVERSE"),
    "PixelIntensityRelationship": _terms("LIN LOG DISP FILM"),
    "LossyImageCompression": _terms("00 01"),
    "LossyImageCompressionMethod": _terms(
        "ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_13818_2 ISO_14496_10 ISO_23008_2"
    ),
    "Laterality": _terms("L R B U"),
    "ImageLaterality": _terms("L R B U"),
    "BodyPartExamined": _terms(
        "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS "
        "BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN "
        "CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE "
        "CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT "
        "GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE "
        "LARYNX LEG LIVER LSPINE LSSPINE LUNG MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST "
        "NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS "
        "PHARYNX PROSTATE RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SINUS SKULL SPINE "
        "SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THUMB THYMUS THYROID TIBIA TIBIAFIBULA TLSPINE "
        "TOE TONGUE TRACHEA TSPINE ULNA URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA"
    ),
    "PatientPosition": _terms("HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL"),
    "ViewPosition": _terms(
        "AP PA LL RL RLD LLD RLO LLO RAO LAO CC MLO ML LM LMO LMB XCC XCCL XCCM FB SIO GEN LATERAL"
    ),
    "PatientOrientation": _ORIENTATION,
    "RotationDirection": _terms("CW CC"),
    "ScanningSequence": _terms("SE IR GR EP RM"),
    "SequenceVariant": _terms("SK MTC SS TRSS SP MP OSP NONE"),
    "MRAcquisitionType": _terms("1D 2D 3D"),
    "InPlanePhaseEncodingDirection": _terms("ROW COL"),
    "AngioFlag": _YES_NO,
    "VariableFlipAngleFlag": _YES_NO,
    "ImagedNucleus": _terms("1H 3HE 7LI 13C 19F 23NA 31P 129XE"),
    "Units": _terms("CNTS NONE CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM UMOLML "
                    "PROPCNTS PROPCPS MLMINML MLML GML STDDEV"),
    "SUVType": _terms("BSA BW LBM LBMJAMES128 LBMJANMA IBW"),
    "SeriesType": _terms("STATIC DYNAMIC GATED WHOLE BODY IMAGE REPROJECTION")
    | frozenset(("WHOLE BODY",)),
    "CountsSource": _terms("EMISSION TRANSMISSION"),
    "DecayCorrection": _terms("NONE START ADMIN"),
    "CorrectedImage": _terms("DECY ATTN SCAT DTIM MOTN PMOT CLN RAN RADL DCAL NORM"),
    "Manufacturer": frozenset((
        "GE MEDICAL SYSTEMS", "GE HEALTHCARE", "SIEMENS", "SIEMENS HEALTHINEERS", "PHILIPS",
        "PHILIPS MEDICAL SYSTEMS", "CANON", "CANON_MEC", "TOSHIBA", "TOSHIBA_MEC", "FUJIFILM",
        "FUJIFILM CORPORATION", "HITACHI", "HOLOGIC", "HOLOGIC, INC.", "AGFA", "CARESTREAM",
        "KODAK", "KONICA MINOLTA", "SHIMADZU", "SAMSUNG", "MINDRAY", "ESAOTE", "UNITED IMAGING",
        "UIH", "NEUSOFT", "VAREX", "PLANMED", "IMS", "SUPERSONIC IMAGINE",
    )),
}  # fmt: skip
"""Attributes of which every value must be one of these terms."""

_FREE = 1e7

NUMBERS: Mapping[str, tuple[float, float]] = {
    "SamplesPerPixel": (1, 3), "Rows": (1, 65_535), "Columns": (1, 65_535),
    "BitsAllocated": (1, 64), "BitsStored": (1, 64), "HighBit": (0, 63),
    "PixelRepresentation": (0, 1), "PlanarConfiguration": (0, 1), "NumberOfFrames": (1, 100_000),
    "PixelSpacing": (1e-5, 100), "ImagerPixelSpacing": (1e-5, 100),
    "NominalScannedPixelSpacing": (1e-5, 100), "PixelAspectRatio": (1, 65_535),
    "WindowCenter": (-_FREE, _FREE), "WindowWidth": (0, _FREE),
    "RescaleSlope": (-_FREE, _FREE), "RescaleIntercept": (-_FREE, _FREE),
    "PixelPaddingValue": (0, 65_535), "PixelIntensityRelationshipSign": (-1, 1),
    "LossyImageCompressionRatio": (0, 10_000),
    "ImagePositionPatient": (-10_000, 10_000), "ImageOrientationPatient": (-1.001, 1.001),
    "SliceThickness": (0, 1000), "SpacingBetweenSlices": (-1000, 1000),
    "SliceLocation": (-10_000, 10_000), "SeriesNumber": (0, 999_999),
    "InstanceNumber": (0, 999_999), "AcquisitionNumber": (0, 999_999),
    "TemporalPositionIdentifier": (0, 10_000), "NumberOfTemporalPositions": (0, 10_000),
    "ImagesInAcquisition": (0, 100_000), "FrameTime": (0, 100_000), "CineRate": (0, 10_000),
    "KVP": (1, 1000), "XRayTubeCurrent": (0, 5000), "Exposure": (0, 100_000),
    "ExposureTime": (0, 1_000_000), "ExposureInuAs": (0, 100_000_000),
    "ExposureTimeInms": (0, 1_000_000), "XRayTubeCurrentInmA": (0, 5000),
    "ReconstructionDiameter": (1, 5000), "DataCollectionDiameter": (1, 5000),
    "DistanceSourceToDetector": (0, 10_000), "DistanceSourceToPatient": (0, 10_000),
    "GantryDetectorTilt": (-90, 90), "TableHeight": (-5000, 5000), "GeneratorPower": (0, 1000),
    "FocalSpots": (0, 100), "SingleCollimationWidth": (0, 1000),
    "TotalCollimationWidth": (0, 1000), "TableSpeed": (0, 1000), "SpiralPitchFactor": (0, 10),
    "RevolutionTime": (0, 100), "CTDIvol": (0, 10_000), "CompressionForce": (0, 1000),
    "BodyPartThickness": (0, 1000), "PositionerPrimaryAngle": (-360, 360),
    "PositionerSecondaryAngle": (-360, 360), "RelativeXRayExposure": (0, 100_000),
    "Sensitivity": (0, 100_000), "RepetitionTime": (0, 1_000_000), "EchoTime": (0, 100_000),
    "InversionTime": (0, 100_000), "FlipAngle": (0, 360), "MagneticFieldStrength": (0, 30),
    "ImagingFrequency": (0, 2000), "NumberOfAverages": (0, 10_000), "EchoNumbers": (0, 1000),
    "EchoTrainLength": (0, 10_000), "PercentSampling": (0, 1000),
    "PercentPhaseFieldOfView": (0, 1000), "PixelBandwidth": (0, 100_000),
    "NumberOfPhaseEncodingSteps": (0, 10_000), "AcquisitionMatrix": (0, 8192), "SAR": (0, 1000),
    "dBdt": (0, 10_000), "DiffusionBValue": (0, 100_000), "TriggerTime": (0, 1_000_000),
    "NumberOfSlices": (0, 65_535), "NumberOfTimeSlices": (0, 65_535), "ImageIndex": (0, 65_535),
    "ActualFrameDuration": (0, 100_000_000), "FrameReferenceTime": (-1e9, 1e9),
    "DecayFactor": (0, 1e6), "DoseCalibrationFactor": (0, 1e12), "SliceSensitivityFactor": (0, 1e6),
    "ScatterFractionFactor": (0, 1), "RadionuclideHalfLife": (0, 1e12),
    "RadionuclideTotalDose": (0, 1e12), "RadionuclidePositronFraction": (0, 1),
    "RegionSpatialFormat": (0, 10), "RegionDataType": (0, 30), "RegionFlags": (0, 65_535),
    "RegionLocationMinX0": (0, 65_535), "RegionLocationMinY0": (0, 65_535),
    "RegionLocationMaxX1": (0, 65_535), "RegionLocationMaxY1": (0, 65_535),
    "PhysicalUnitsXDirection": (0, 20), "PhysicalUnitsYDirection": (0, 20),
    "PhysicalDeltaX": (-1e6, 1e6), "PhysicalDeltaY": (-1e6, 1e6),
    "ReferencePixelX0": (-65_535, 65_535), "ReferencePixelY0": (-65_535, 65_535),
    "ReferencedFrameNumber": (1, 100_000), "InStackPositionNumber": (0, 100_000),
    "DimensionIndexValues": (0, 100_000), "PatientWeight": (0.1, 700), "PatientSize": (0.1, 2.8),
}  # fmt: skip
"""Attributes of which every value must be a number within these bounds, both included.

PatientWeight and PatientSize are kept only under the option for patient characteristics.
"""

SEQUENCES = frozenset((
    "SourceImageSequence", "ReferencedImageSequence", "SequenceOfUltrasoundRegions",
    "RadiopharmaceuticalInformationSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "PixelMeasuresSequence", "PlanePositionSequence",
    "PlaneOrientationSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence",
    "FrameContentSequence", "CTExposureSequence", "CTAcquisitionDetailsSequence",
    "MREchoSequence", "MRDiffusionSequence", "FrameAnatomySequence", "AnatomicRegionSequence",
))  # fmt: skip
"""Sequences that are entered; their items are cleaned by the same rules. Others are removed."""

IMAGE_CLASSES = frozenset("1.2.840.10008.5.1.4.1.1." + suffix for suffix in (
    "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "2.1", "2.2", "3.1", "4", "4.1",
    "4.3", "4.4", "6.1", "6.2", "7", "7.1", "7.2", "7.3", "7.4", "12.1", "12.1.1", "12.2",
    "12.2.1", "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5", "20", "77.1.1", "77.1.2", "77.1.4",
    "77.1.5.1", "77.1.5.2", "77.1.5.4", "128", "128.1", "130", "3", "6",
))  # fmt: skip
"""Storage SOP classes of images (PS3.4 B.5), without whole-slide, video and segmentation."""

CROSS_SECTION_CLASSES = frozenset(
    "1.2.840.10008.5.1.4.1.1." + suffix
    for suffix in ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "13.1.1", "13.1.2")
)
"""CT, MR and X-ray 3D: from a stack of these a face can be rendered, whatever Modality says."""

HEAD_CLASSES = frozenset(("1.2.840.10008.5.1.4.1.1.13.1.2",))
"""X-ray 3D craniofacial: a head, even where no region of the body is declared."""

DOCUMENT_CLASSES = "1.2.840.10008.5.1.4.1.1.104."
CAPTURE_CLASSES = frozenset(
    "1.2.840.10008.5.1.4.1.1." + suffix
    for suffix in ("7", "7.1", "7.2", "7.3", "7.4", "77.1.1", "77.1.2", "77.1.4")
)
"""Secondary captures, and pictures by a camera, in which captions and faces are as likely."""

ULTRASOUND_CLASSES = frozenset(
    "1.2.840.10008.5.1.4.1.1." + suffix for suffix in ("6.1", "6.2", "3.1", "6", "3")
)

REGION_CODES: Mapping[tuple[str, str], str] = {
    ("SCT", "69536005"): "Head", ("SRT", "T-D1100"): "Head", ("SNM3", "T-D1100"): "Head",
    ("SCT", "12738006"): "Brain", ("SRT", "T-A0100"): "Brain", ("SNM3", "T-A0100"): "Brain",
    ("SCT", "89546000"): "Skull", ("SRT", "T-11100"): "Skull", ("SCT", "89545001"): "Face",
    ("SRT", "T-D1200"): "Face", ("SCT", "774007"): "Head and Neck",
    ("SRT", "T-D1000"): "Head and Neck", ("SCT", "45048000"): "Neck", ("SRT", "T-D1600"): "Neck",
    ("SCT", "51185008"): "Chest", ("SRT", "T-D3000"): "Chest", ("SNM3", "T-D3000"): "Chest",
    ("SCT", "39607008"): "Lung", ("SRT", "T-28000"): "Lung", ("SCT", "80891009"): "Heart",
    ("SRT", "T-32000"): "Heart", ("SCT", "76752008"): "Breast", ("SRT", "T-04000"): "Breast",
    ("SCT", "818981001"): "Abdomen", ("SRT", "T-D4000"): "Abdomen", ("SCT", "10200004"): "Liver",
    ("SRT", "T-62000"): "Liver", ("SCT", "64033007"): "Kidney", ("SRT", "T-71000"): "Kidney",
    ("SCT", "816092008"): "Pelvis", ("SRT", "T-D6000"): "Pelvis", ("SCT", "41216001"): "Prostate",
    ("SRT", "T-92000"): "Prostate", ("SCT", "421060004"): "Spine", ("SRT", "T-11500"): "Spine",
    ("SCT", "72696002"): "Knee", ("SRT", "T-D9200"): "Knee", ("SCT", "85562004"): "Hand",
    ("SRT", "T-D8700"): "Hand", ("SCT", "81745001"): "Eye", ("SRT", "T-AA000"): "Eye",
    ("SCT", "5665001"): "Retina", ("SRT", "T-AA610"): "Retina", ("SCT", "38266002"): "Whole body",
    ("SRT", "T-D0010"): "Whole body",
}  # fmt: skip
"""Anatomic region codes that are kept, with the meaning that is written (never the file's own)."""
