# From archives or a folder of images to packed pixels. Trainval and test are packed by different jobs.


# First of all: `python -m dml.progress` tells from it how far the study is.
rule plan:
    output:
        f"{RESULTS}/plan.json",
    log:
        f"{LOGS}/plan.log",
    priority: 1
    localrule: True
    conda:
        ENVIRONMENT
    params:
        datasets=DATASETS,
        methods=RUN_NAMES,
        trials=[STUDY.trials(name) for name in RUN_NAMES],
        folds=PROTOCOL.folds,
        seeds=PROTOCOL.seeds,
    shell:
        "python -m dml.stages.plan --datasets {params.datasets:q} --methods {params.methods:q} --trials {params.trials:q}"
        " --folds {params.folds} --seeds {params.seeds} --output {output:q} 2> {log:q}"


rule fetch:
    output:
        images=f"{DATA}/{{dataset}}/images.csv",
    log:
        f"{LOGS}/{{dataset}}/fetch.log",
    localrule: True  # the nodes of a cluster often have no way out
    conda:
        ENVIRONMENT
    params:
        archives=archives,
        plugin=plugin,
        code=lambda wildcards: STUDY.dataset(wildcards.dataset).code(),
        source=own_source,
        listing=lambda wildcards: STUDY.dataset(wildcards.dataset).listing(),
    shell:
        "python -m dml.stages.fetch --plugin {params.plugin:q} --source {params.source:q}"
        " --archives {params.archives:q} --output {output.images:q} 2> {log:q}"


rule split:
    input:
        f"{DATA}/{{dataset}}/images.csv",
    output:
        f"{RESULTS}/{{dataset}}/folds.csv",
    log:
        f"{LOGS}/{{dataset}}/split.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        folds=PROTOCOL.folds,
        plugin=plugin,
        code=code_of("splits", "listing"),
        dataset=lambda wildcards: STUDY.dataset(wildcards.dataset).code(),
    shell:
        "python -m dml.stages.split --plugin {params.plugin:q} --images {input:q} --folds {params.folds:q} --output {output:q} 2> {log:q}"


rule pack:
    input:
        f"{DATA}/{{dataset}}/images.csv",
    output:
        fingerprint=f"{SIDE}/{{half}}.sha256",
        pixels=multiext(f"{SIDE}/{{half}}", ".pixels", ".npz"),
    log:
        f"{LOGS}/{{dataset}}/pack{{side}}_{{half}}.log",
    conda:
        ENVIRONMENT
    threads: 1
    params:
        plugin=plugin,
        side=lambda wildcards: int(wildcards.side),
        code=code_of("images", "listing", "splits"),
        upright=lambda wildcards: plugins.literal("datasets", plugin(wildcards), "UPRIGHT", False),
    shell:
        "python -m dml.stages.pack --plugin {params.plugin:q} --images {input:q} --half {wildcards.half}"
        " --side {params.side:q} --threads {threads} --output {output.fingerprint:q} 2> {log:q}"


# Weights are shared by studies: the one that they are fetched for is no input, it comes with the environment.
rule weights:
    output:
        f"{DATA}/weights/{{weights}}",
    log:
        f"{LOGS}/weights_{{weights}}.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        # not the addresses: a new one is no reason to fetch the same file again
        identity=lambda wildcards: WEIGHTS[wildcards.weights].identity(),
    shell:
        'python -m dml.stages.weights --study "$DML_STUDY" --output {output:q} 2> {log:q}'
