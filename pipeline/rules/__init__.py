"""Rules: which captions raise alerts, and when alerts start, go on and end."""

from pipeline.rules.captions import parse_captions, read_captions
from pipeline.rules.engine import RuleEngine, RuleState, utc_now
from pipeline.rules.lifecycle import alert_id
from pipeline.rules.replay import AlertDifference, compare, replay
from pipeline.rules.reviews import ReviewBook
from pipeline.rules.ruleset import Rule, RuleSet, check_examples, load_rules
from pipeline.rules.unwatched import unwatched

__all__ = [
    "AlertDifference",
    "ReviewBook",
    "Rule",
    "RuleEngine",
    "RuleSet",
    "RuleState",
    "alert_id",
    "check_examples",
    "compare",
    "load_rules",
    "parse_captions",
    "read_captions",
    "replay",
    "unwatched",
    "utc_now",
]
