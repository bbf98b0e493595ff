"""`/v1/keys` (ours): API keys, for callers with the scope `admin`. The functions block, so they run on threads."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from gateway.auth import LIMITS, ApiKey
from gateway.deps import KeysDep, get_admin
from gateway.response_object import page_object
from gateway.schemas import KeyChange, KeyCreate, KeyRotate

router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[Depends(get_admin)])


@router.post("")
def create_key(body: KeyCreate, keys: KeysDep) -> dict[str, Any]:
    """A new key; `value` is its secret, told this once."""
    key, secret = keys.create(**body.model_dump(exclude={"scopes"}), scopes=frozenset(body.scopes))
    return _object(key) | {"value": secret}


@router.get("")
def list_keys(
    keys: KeysDep, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    """All keys, the newest first, revoked ones too."""
    page = keys.page(limit=limit, after=after)
    return page_object([_object(key) for key in page.entries], page.has_more)


@router.get("/{key_id}")
def get_key(key_id: str, keys: KeysDep) -> dict[str, Any]:
    """One key."""
    return _object(keys.get(key_id))


@router.post("/{key_id}")
def change_key(key_id: str, body: KeyChange, keys: KeysDep) -> dict[str, Any]:
    """Changes what is given: name, limits, expiry; null means the default, or no end."""
    return _object(keys.change(key_id, body.model_dump(exclude_unset=True)))


@router.delete("/{key_id}")
def revoke_key(key_id: str, keys: KeysDep) -> dict[str, Any]:
    """Ends a key for good; it stays in the list."""
    keys.get(key_id)
    keys.revoke(key_id, must_leave_an_admin=True)
    return {"id": key_id, "object": "api_key.deleted", "deleted": True}


@router.post("/{key_id}/rotate")
def rotate_key(key_id: str, keys: KeysDep, body: KeyRotate | None = None) -> dict[str, Any]:
    """A new secret for the same key, in `value`; the old one works for `grace_s` seconds more."""
    key, secret = keys.rotate(key_id, grace_s=body.grace_s if body else 0)
    return _object(key) | {"value": secret}


def _object(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "object": "api_key",
        "name": key.name,
        "redacted_value": f"{key.prefix}…",
        "scopes": sorted(key.scopes),
        **{limit: getattr(key, limit) for limit in LIMITS},
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
