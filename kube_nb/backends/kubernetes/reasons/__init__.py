"""Why a job waits or failed on a cluster, in words: pure functions from what the cluster shows to a `Reason`.

One file for each subject. Every code is stable; every sentence is for a person who has a namespace and no help.
"""
