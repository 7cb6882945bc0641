"""Deep metric learning under one fair protocol: download, search, final runs, metrics, report. See README.md."""

from snakemake.utils import min_version

from workflow.progress import watch

min_version("9.0")
watch()


configfile: f"{workflow.basedir}/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/final.smk"
include: "workflow/rules/report.smk"


# Every result is a target: whichever file is deleted, it and what follows from it is made again, and nothing else.
rule all:
    default_target: True
    input:
        f"{REPORT}/index.html",
        plan=rules.plan.output,
        tables=rules.tables.output,
        figures=rules.figures.output,
        results=rules.collect.output,
        search=all_of_the_search(),
        finals=all_of_the_finals(),
    localrule: True


rule search:
    input:
        all_of_the_search(),
        plan=rules.plan.output,
    localrule: True
