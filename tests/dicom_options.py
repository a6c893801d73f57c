"""Profiles with single options switched on, and coded entries, for tests of the de-identifier."""

from __future__ import annotations

from pydicom.dataset import Dataset

from fedward_client.deidentify.profile import Profile


def profile(*, pixels=None, clean=None, **retain):
    return Profile.model_validate({"retain": retain, "clean": clean or {}, "pixels": pixels or {}})


def coded(value, scheme, meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
