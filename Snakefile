# Every row of every table as a target: snakemake --cores 2 quick, or one row: results/mnist/linf-dist-net/laptop-0.json
#
# A row is an executed notebook, which trains and evaluates in runs/, and the record that it leaves, copied to results/.
# Finished rows, those of this book too, are not run again (-d DIR makes all of them, in DIR); a row that was stopped
# goes on from its last checkpoint. Those are written every quarter of a minute, or as often as takes a fiftieth of the
# time: every few minutes at the paper's widths. The notebook of a row that failed stays, and says why.
#
# --config recipes=mnist/linf-dist-net,cifar10/linf-dist-net seeds=0,1,2 data_root=DIR device=cpu threads=2
# data_root, like LINF_DATA and its default data/, is found from the folder of this file, whatever -d says.

import sys

from lib.experiments import sweep

PLAN = sweep.configured(config)  # refused here, before any job, where something is wrong in it
MINUTES = {"smoke": 10, "quick": 15, "laptop": 60, "gpu": 60, "paper": 2880}


def records(budget):
    return [f"results/{row}.json" for row in PLAN.rows(budget)]


wildcard_constraints:
    recipe="|".join(PLAN.recipes),
    seed=r"\d+",


localrules: smoke, quick, laptop, gpu, paper


rule quick:
    input: records("quick")


rule smoke:
    input: records("smoke")


rule laptop:
    input: records("laptop")


rule gpu:
    input: records("gpu")


rule paper:
    input: records("paper")


rule row:
    output:
        table="results/{recipe}/{budget}-{seed}.npz",
        record="results/{recipe}/{budget}-{seed}.json",
    log:  # which is kept where the row fails, unlike an output
        notebook="runs/{recipe}/{budget}-{seed}.ipynb",
    wildcard_constraints:
        budget="smoke|quick|laptop",
    params:
        python=sys.executable,
        chapter=lambda wildcards: sweep.chapter(wildcards.recipe),
        arguments=lambda wildcards: PLAN.arguments(wildcards.recipe, wildcards.budget, wildcards.seed),
        made="runs/{recipe}/{budget}-{seed}",
        weights="results/{recipe}/{budget}-{seed}.safetensors",  # of an earlier run; those of this one stay in runs/
    threads: PLAN.threads
    resources:
        runtime=lambda wildcards: MINUTES[wildcards.budget],
    shell:
        "NUMBA_NUM_THREADS={threads} {params.python:q} -m papermill --no-progress-bar "
        "{params.chapter:q} {log.notebook:q} {params.arguments} && "
        "rm -f {params.weights} && cp {params.made}.npz {output.table} && cp {params.made}.json {output.record}"


# a rule of its own, so that a profile can send it to other machines
use rule row as gpu_row with:
    wildcard_constraints:
        budget="gpu|paper",
    resources:
        runtime=lambda wildcards: MINUTES[wildcards.budget],
        gpu=int(PLAN.device != "cpu"),
