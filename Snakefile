"""Deep metric learning under one fair protocol: download, search, final runs, metrics, report. See README.md."""

import gc
import os
import sys

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

from workflow.progress import watch

min_version("9.0")
watch()
# A plan of ten thousand jobs is millions of objects that all stay: to look for garbage among them takes a tenth of the time.
gc.set_threshold(100_000)


configfile: f"{workflow.basedir}/config.yaml"


report: "workflow/report/workflow.rst"


# The image is named only where jobs run in it, so that no file made elsewhere is said to come from it.
if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
    IMAGE = os.path.relpath(f"{workflow.basedir}/envs/dml.sif")
    if not os.path.exists(IMAGE):
        sys.exit(f"error: {IMAGE}: no such file: build the image first, as envs/README.md says")

    container: IMAGE


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/final.smk"
include: "workflow/rules/report.smk"


# Every result is a target: whichever file is deleted, it and what follows from it is made again, and nothing else.
# Long lists are functions: of a plain list Snakemake compares all with each of its files.
rule all:
    default_target: True
    input:
        f"{REPORT}/index.html",
        plan=rules.plan.output,
        tables=rules.tables.output,
        figures=rules.figures.output,
        results=rules.collect.output,
        search=all_of_the_search,
        finals=all_of_the_finals,
    localrule: True


rule search:
    input:
        all_of_the_search,
        plan=rules.plan.output,
    localrule: True
