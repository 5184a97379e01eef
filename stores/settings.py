"""Settings, and the only place that reads the environment.

A setting comes from the environment (`LOCKHOUSE_<NAME>`), else from `<home>/settings.toml`, else
from the defaults below. No setting holds a secret: secrets are named by the path of a file.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

DEFAULT_HOME = Path(".lockhouse")


class QueueSettings(BaseModel):
    """A queue that messages come from, and whose they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field("logins", description="The source whose records its messages are.")
    tenant: str = Field("default", description="The tenant to whom they belong.")
    url: str | None = Field(None, description="The SQS queue; an embedded queue in landing without it.")
    carries: Literal["records", "objects"] = Field(
        "records", description="`records`, a message each; `objects`, which a bucket announces."
    )
    buckets: tuple[str, ...] = Field((), description="The buckets from which announced objects are taken.")


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix="LOCKHOUSE_", extra="ignore")

    home: Path = Field(DEFAULT_HOME, description="The folder that holds all state.")
    passphrase_file: Path | None = Field(
        None, description="The file with the keyring's passphrase; `<home>/keys/passphrase` without it."
    )
    database_url: str | None = Field(
        None,
        description="Address of the application database on PostgreSQL, without a password; "
        "SQLite in the home without it.",
    )
    database_url_file: Path | None = Field(
        None, description="The file with that address, where it holds a password."
    )
    chunk_bytes: int = Field(
        32 << 20,
        ge=1 << 16,
        description="Plain bytes of a batch that are sealed, masked and committed at once.",
    )
    duplicate_window_days: int = Field(
        7, ge=1, description="Days of arrivals among which a named event is looked for again."
    )
    rollup_commits: int = Field(
        50, ge=2, description="Commits of an open day after which its files are rolled up."
    )
    capture_retention_days: int = Field(
        30, ge=1, description="Days that packets are kept, sealed, with what is known of their files."
    )
    packet_retention_days: int = Field(
        365, ge=1, description="Days that the table of packets' masked headers goes back."
    )
    capture_flow_bytes: int | None = Field(
        None,
        ge=0,
        description="Bytes of a flow in a capture after which packets lose their payload; none are without it.",
    )
    capture_limit_bytes: int | None = Field(
        None,
        ge=1,
        description="Bytes of packets that a tenant may keep, beyond which the oldest hours go.",
    )
    feed_certificate_file: Path | None = Field(
        None, description="The live feed's own TLS certificate, with what leads to its authority."
    )
    feed_key_file: Path | None = Field(None, description="The private key of that certificate.")
    feed_ca_file: Path | None = Field(
        None, description="The authorities that devices' certificates for the live feed come from."
    )
    feed_segment_bytes: int = Field(
        64 << 20, ge=1, description="Bytes after which a file of the live feed is closed and taken in."
    )
    feed_segment_seconds: float = Field(
        60, gt=0, description="Seconds after which a file of the live feed is closed and taken in."
    )
    service_url: str | None = Field(
        None, description="The address under which the service is reached; issuer of its tokens, too."
    )
    service_issuers_file: Path | None = Field(
        None, description="A JSON file of other issuers whose tokens count; see the how-to guide."
    )
    service_sign_in_file: Path | None = Field(
        None,
        description="A JSON file of the provider that signs people in (OpenID Connect); see the guide.",
    )
    service_password_sign_in: bool = Field(
        True, description="Whether people may sign in with a password of this house."
    )
    service_certificate_file: Path | None = Field(
        None, description="The service's own TLS certificate, with what leads to its authority."
    )
    service_key_file: Path | None = Field(None, description="The private key of that certificate.")
    service_behind_proxy: bool = Field(
        False, description="Whether a proxy in front of the service ends TLS, so that it may listen elsewhere."
    )
    service_spans_url: str | None = Field(
        None,
        description="The OTLP/HTTP address that spans of requests are sent to, such as "
        "http://127.0.0.1:4318/v1/traces; none are made without it.",
    )
    service_requests_per_minute: int = Field(
        1200, ge=1, description="Requests a minute that each caller may make, before it is asked to wait."
    )
    service_query_seconds: float = Field(30, gt=0, description="Seconds after which a query is stopped.")
    upload_limit_bytes: int = Field(500_000_000, ge=1, description="The largest file that can be uploaded.")
    upload_quota_bytes: int = Field(
        4 << 30, ge=1, description="Bytes of unfinished uploads that a tenant may hold at once."
    )
    upload_parts_days: int = Field(
        2,
        ge=0,
        description="Days that parts of uploads are kept, sealed, so as not to be sent again; 0 for none.",
    )
    upload_interval_seconds: int = Field(900, ge=1, description="How often devices should send, they are told.")
    upload_wifi_only: bool = Field(False, description="Whether devices should send over Wi-Fi only.")
    upload_charging_only: bool = Field(False, description="Whether devices should send only while charging.")
    reveal_row_limit: int = Field(1000, ge=1, description="Most values that one reveal opens.")
    reveal_approval: str = Field(
        "", description="Tenants, by commas, in which a reveal needs a second person; * for all."
    )
    queue_url: str | None = Field(
        None,
        description="The SQS queue that logins of the tenant `default` come from; an embedded queue in landing "
        "without it.",
    )
    queues: tuple[QueueSettings, ...] = Field(
        (), description="Every queue that `up` receives from, where there are several; see the how-to guide."
    )
    queue_visibility_s: float = Field(
        60, ge=2, description="Seconds for which a received message is kept from other receivers."
    )
    queue_max_receives: int = Field(
        5, ge=1, description="Deliveries of a message of the embedded queue after which it is a dead letter."
    )
    segment_messages: int = Field(
        1000, ge=1, description="Messages after which a segment is closed and taken in."
    )
    segment_seconds: float = Field(5, gt=0, description="Seconds after which a segment is closed and taken in.")
    staging_limit_bytes: int = Field(
        1 << 30, ge=1, description="Bytes of staged messages at which the receiver waits for the lake."
    )
    staging_limit_seconds: float = Field(
        3600, gt=0, description="Age of the oldest staged message at which the receiver waits for the lake."
    )
    postgres_url: str | None = Field(
        None,
        description="Address of the PostgreSQL database that served tables go to, without a password; "
        "nothing is served without it.",
    )
    postgres_url_file: Path | None = Field(
        None, description="The file with that address, where it holds a password."
    )
    low_store_url: str | None = Field(
        None,
        description="SQLAlchemy address of the low-security store of validations, without a password; SQLite "
        "in the home without it.",
    )
    low_store_url_file: Path | None = Field(
        None, description="The file with that address, where it holds a password."
    )
    high_store_url: str | None = Field(
        None,
        description="SQLAlchemy address of the high-security store of validations, without a password; SQLite "
        "in the home without it.",
    )
    high_store_url_file: Path | None = Field(
        None, description="The file with that address, where it holds a password."
    )
    validation_queue_url: str | None = Field(
        None,
        description="The SQS queues of the validations' events, with {service} where a service's name goes; "
        "embedded queues without it.",
    )
    validation_minimum_age: int = Field(18, ge=0, description="Age in years under which a person is rejected.")
    validation_minimum_ages: str = Field(
        "", description="Tenants with another age, by commas, such as acme=16,other=21."
    )
    validation_keep_decisions: str = Field(
        "", description="Tenants, by commas, that keep the decision of a deleted validation; * for all."
    )
    rotation_horizon_days: int = Field(
        30, ge=0, description="Days after a rotation until the old token keys are destroyed."
    )
    k_threshold: int = Field(10, ge=1, description="Fewest people in a published group of an aggregate.")
    session_gap_minutes: int = Field(30, ge=1, description="Longest pause inside one session of a person.")
    aws_region: str = Field("eu-central-1", description="The AWS region of S3 and Secrets Manager.")
    aws_endpoint_url: str | None = Field(None, description="Another address for AWS, for tests.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Rank the sources: arguments, environment, the home's settings file."""
        given = init_settings()
        home = Path(given.get("home") or env_settings().get("home") or DEFAULT_HOME)
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home / "settings.toml")


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings; `home` overrules the environment."""
    settings = Settings(home=home) if home is not None else Settings()
    return settings.model_copy(update={"home": settings.home.expanduser().absolute()})


def write_setting(home: Path, name: str, value: str) -> None:
    """Keep a setting in the home's file; what stands there of it is replaced."""
    path = home / "settings.toml"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if not line.startswith(f"{name} =")]
    path.write_text("\n".join([*kept, f"{name} = {json.dumps(value)}"]) + "\n")


def child_environment(settings: Settings) -> dict[str, str]:
    """Give the environment for a child process: paths of secrets, never their values."""
    ours = {
        "LOCKHOUSE_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "TMPDIR": str(settings.home / "tmp"),
    }
    if settings.passphrase_file is not None:
        ours["LOCKHOUSE_PASSPHRASE_FILE"] = str(settings.passphrase_file)
    return {**os.environ, **ours}


def adopt_environment(settings: Settings) -> None:
    """Make this process, and those that it starts, work in the home, and leave no core dump behind.

    Dagster and temporary files look at the environment. A dump would hold keys and readable values.
    """
    os.environ.update(child_environment(settings))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def local_user() -> str:
    """Give the operating system's name of the user; their number where it has no name."""
    import pwd

    # Not `getpass.getuser`: it believes LOGNAME, and anybody can set that.
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
