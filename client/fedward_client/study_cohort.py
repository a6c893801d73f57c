"""The patients that a plan asks for: a site's cohort as the plan preprocesses it."""

from __future__ import annotations

from fedward_client.cohort import Cohort, FeatureMap, ImageCohort, image_cohort, table_cohort
from fedward_client.site_folder import SiteFolder
from fedward_common.models.features import feature_map
from fedward_common.queries.task import Split
from fedward_common.study import Study


def open_cohort(folder: SiteFolder, study: Study, split: Split) -> Cohort:
    """One split's labelled patients; no image is opened before a query asks for it.

    Raises:
        OperatorError: a label is not a class of the plan, or a column of it is missing.
    """
    plan = study.plan
    if plan.cohort.source == "table":
        return table_cohort(
            folder.catalogue,
            folder.split,
            split=split,
            classes=plan.study.classes,
            columns=plan.cohort.columns,
        )
    return _images(folder, study, split)


def prepare_cohort(folder: SiteFolder, study: Study, split: Split) -> int:
    """Preprocess and seal every image of a split now, so that a round only reads; returns N."""
    cohort = open_cohort(folder, study, split)
    if isinstance(cohort, ImageCohort):
        cohort.prepare()
    return len(cohort)


def _images(folder: SiteFolder, study: Study, split: Split) -> ImageCohort:
    spec = study.input_spec
    # A cnn sees the same features as maps: kept in the vault under a name of their own.
    name = spec.features if spec.kind == "svm" else f"{spec.features}-maps"
    mapped = FeatureMap(name, feature_map(spec)) if name and spec.features else None
    return image_cohort(
        folder.catalogue,
        folder.vault,
        folder.split,
        split=split,
        classes=study.plan.study.classes,
        spec=study.plan.preprocess,
        features=mapped,
    )
