"""The de-identifier: DICOM in; a rebuilt, clean DICOM file or a reason for quarantine out."""
