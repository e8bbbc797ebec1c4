"""Which strategy a request is to have, where more than one has a say.

`Decider` asks for requests with wishes of their own, and for models that say something of strategies; for all others
the strategy in force decides, and nothing here is asked. From the highest to the lowest: the strategy that the model is
locked to, the client's header `routing-strategy`, the model's profile, then what is in force: what was set at run time,
the environment's ROUTING_ALGORITHM, the configuration.

The ordering of profiles under `auto` is that of AIBrix (pkg/plugins/gateway/configprofiles).
"""

from __future__ import annotations

from rbeerouter.core.errors import RouterError
from rbeerouter.core.models import Model, Profile
from rbeerouter.core.types import MOST_WISH_BYTES, Request

AUTO = "auto"
"""What the header config-profile says for the profile that fits the request's size."""
DEFAULT_PROFILE = "default"
_SHOWN_CHARS = 40


def chosen_name(request: Request, model: Model | None, header: bool) -> str | None:
    """The strategy or list that model or client want, as they wrote it; None leaves it to the one in force.

    Args:
        header: may clients choose?

    Raises:
        RouterError: invalid_header, where the client's is too long.
    """
    if model is not None and model.locked_strategy is not None:
        return model.locked_strategy
    wishes = request.wishes
    if header and wishes is not None and wishes.strategy is not None:
        if len(wishes.strategy) > MOST_WISH_BYTES:
            shown = f"{wishes.strategy[:_SHOWN_CHARS]}..."
            what = f"routing-strategy: {shown!r}: expected at most {MOST_WISH_BYTES} bytes"
            raise RouterError("invalid_header", what)
        return wishes.strategy
    profile = profile_of(request, model) if model is not None else None
    return profile.strategy if profile is not None else None


def profile_of(request: Request, model: Model) -> Profile | None:
    """The profile that a request has: the one that its client names, by size with `auto`, else the model's default. A
    name that the model does not know stands for the default."""
    if not model.profiles:
        return None
    asked = request.wishes.profile if request.wishes is not None else None
    if asked == AUTO:
        fitting = [profile for profile in model.profiles if _fits(profile, request)]
        if fitting:
            return min(fitting, key=_order)
    elif asked is not None:
        for profile in model.profiles:
            if profile.name == asked:
                return profile
    wanted = model.default_profile or DEFAULT_PROFILE
    return next((profile for profile in model.profiles if profile.name == wanted), None)


def _fits(profile: Profile, request: Request) -> bool:
    """Do all hints of a profile hold? One without hints is never found by size; nor does a hint hold where the request
    does not say how many tokens it is."""
    return profile.hints > 0 and (
        _within(request.prompt_tokens, profile.prompt_tokens_gte, profile.prompt_tokens_lt)
        and _within(request.max_tokens, profile.max_tokens_gte, profile.max_tokens_lt)
    )


def _within(tokens: int | None, least: int | None, below: int | None) -> bool:
    if least is None and below is None:
        return True
    return tokens is not None and (least is None or tokens >= least) and (below is None or tokens < below)


def _order(profile: Profile) -> tuple[object, ...]:
    """The most special first: more hints, longer prompts, a closer limit; the same for answers; then by name."""
    return (
        -profile.hints, -_or(profile.prompt_tokens_gte, -1), _or(profile.prompt_tokens_lt, 1 << 62),
        -_or(profile.max_tokens_gte, -1), _or(profile.max_tokens_lt, 1 << 62), profile.name,
    )  # fmt: skip


def _or(value: int | None, other: int) -> int:
    return other if value is None else value
