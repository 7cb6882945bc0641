# From all results of the study to tables, figures and one page.

TABLES = STUDY.shown("tables")
FIGURES = STUDY.shown("figures")
# How `snakemake --report` shows them: a table that is not named here stands with those of accuracy, and of one without a
# text of its own something general is said. All have one label: of a second with two values, Snakemake makes a switch.
TABLES_ABOUT = {
    "hyperparameters": "Search",
    "search_budget": "Search",
    "failures": "Failures",
    "factors": "Factors",
    "retrieval": "Retrieval",
    "pairs": "Additions",
    "embedding_space": "Geometry",
    "selection": "Choosing by the test",
    "costs": "Provenance",
    "runs": "Provenance",
}
CAPTIONS = {
    (kind, name): next(
        str(path)
        for path in (Path(workflow.basedir, "workflow", "report", kind, f"{text}.rst") for text in (name, "other"))
        if path.exists()
    )
    for kind in ("tables", "figures")
    for name in plugins.names(kind)
}
OTHER_RESULTS = [
    "trials.csv",
    "curves.csv",
    "runs.csv",
    "selection.csv",
    "best.csv",
    "costs.csv",
    "published.csv",
    "study.json",
]


rule collect:
    input:
        study=ancient(str(STUDY_FILE)),
        measured=of_all_seeds("metrics.json"),
        histories=[f"{RESULTS}/{dataset}/{method}/history.json" for dataset, method in RUNS],
        best=[f"{RESULTS}/{dataset}/{method}/best.yaml" for dataset, method in RUNS],
        folds=[f"{RESULTS}/{dataset}/folds.csv" for dataset in DATASETS],
        published=published_files(),
        spaces=of_all_seeds("space.json") if STUDY.embedding_space else [],
        selections=of_all_seeds("selection.json") if STUDY.checkpoints else [],
    output:
        metrics=f"{RESULTS}/metrics.csv",
        others=[f"{RESULTS}/{table}" for table in OTHER_RESULTS],
    log:
        f"{LOGS}/collect.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        images=SETTINGS.images or [],
        name=NAME,
        study=STUDY.model_dump(),
        titles=[method.heading for method in STUDY.methods],
        datasets=[dataset.describe() for dataset in STUDY.datasets],
        papers=PUBLISHED,
        code=code_of("collecting", "published"),
    shell:
        "python -m dml.stages.collect --study {input.study:q} --name {params.name} --images {params.images:q} --measured {input.measured:q}"
        " --histories {input.histories:q} --best {input.best:q} --folds {input.folds:q}"
        " --papers {params.papers:q} --spaces {input.spaces:q} --selections {input.selections:q} --output {output.metrics:q} 2> {log:q}"


rule tables:
    input:
        metrics=rules.collect.output.metrics,
        others=rules.collect.output.others,
    output:
        csv=[
            report(
                f"{REPORT}/tables/{table}.csv",
                category="Tables",
                subcategory=TABLES_ABOUT.get(table, "Accuracy"),
                labels={"table": plugins.literal("tables", table, "TITLE")},
                caption=CAPTIONS["tables", table],
            )
            for table in TABLES
        ],
        other=[f"{REPORT}/tables/{table}.{form}" for table in TABLES for form in ("md", "tex")],
    log:
        f"{LOGS}/tables.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=REPORT_CODE,
    shell:
        "python -m dml.stages.tables --results {input.metrics:q} --output {output.csv:q} 2> {log:q}"


rule figures:
    input:
        metrics=rules.collect.output.metrics,
        others=rules.collect.output.others,
    output:
        svg=[
            report(
                f"{REPORT}/figures/{figure}.svg",
                category="Figures",
                labels={"figure": plugins.literal("figures", figure, "TITLE")},
                caption=CAPTIONS["figures", figure],
            )
            for figure in FIGURES
        ],
        pdf=[f"{REPORT}/figures/{figure}.pdf" for figure in FIGURES],
    log:
        f"{LOGS}/figures.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=REPORT_CODE,
    shell:
        "python -m dml.stages.figures --results {input.metrics:q} --output {output.svg:q} 2> {log:q}"


# Reads test pixels too, but for pictures, and only once every number of the study is there.
rule gallery:
    input:
        metrics=rules.collect.output.metrics,
        others=rules.collect.output.others,
        embeddings=[
            f"{RESULTS}/{{dataset}}/{method}/seeds/0/fold{fold}/embeddings.npy"
            for method in METHODS
            for fold in range(PROTOCOL.folds)
        ],
        folds=f"{RESULTS}/{{dataset}}/folds.csv",
        test=f"{OWN_SIDE}/test.sha256",
        pixels=ancient(multiext(f"{OWN_SIDE}/test", ".pixels", ".npz")),
    output:
        f"{RESULTS}/{{dataset}}/gallery.json",
    log:
        f"{LOGS}/{{dataset}}/gallery.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=REPORT_CODE,
        methods=METHODS,
    shell:
        "python -m dml.stages.gallery --results {input.metrics:q} --dataset {wildcards.dataset}"
        " --embeddings {input.embeddings:q} --methods {params.methods:q} --folds {input.folds:q} --test {input.test:q}"
        " --output {output:q} 2> {log:q}"


rule report:
    input:
        metrics=rules.collect.output.metrics,
        others=rules.collect.output.others,
        tables=rules.tables.output,
        figures=rules.figures.output,
        galleries=[f"{RESULTS}/{dataset}/gallery.json" for dataset in DATASETS],
    output:
        report(
            f"{REPORT}/index.html",
            category="Page",
            labels={"page": "Everything in one page"},
            caption="../report/page.rst",
        ),
    log:
        f"{LOGS}/report.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=REPORT_CODE,
        drawings=rules.figures.output.svg,
        shown=TABLES,
    shell:
        "python -m dml.stages.report --results {input.metrics:q} --tables {params.shown:q} --figures {params.drawings:q}"
        " --galleries {input.galleries:q} --output {output:q} 2> {log:q}"
