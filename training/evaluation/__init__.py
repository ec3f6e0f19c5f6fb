"""How good are the restored faces? The evaluator behind `python -m training.evaluate`.

    methods: bicubic, networks, pictures -> comparison: the same degraded faces, by a protocol -> judges: numbers
    judges: landmarks, identity, frechet, and sparnet.metrics -> ledger: a row a face -> report -> tables, page

The trainer uses nothing of it.
"""
