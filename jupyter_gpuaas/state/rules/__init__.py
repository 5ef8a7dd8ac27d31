"""Rules for what pickle gets wrong or refuses, one file a kind; `registry` says how a rule is written."""

from .registry import Context, NotRestorable, find_rule, restoring, rule

__all__ = ["Context", "NotRestorable", "find_rule", "restoring", "rule"]
