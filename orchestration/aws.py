"""The AWS twins of what the embedded profile does on this machine, wired by settings.

They are made when a run asks for them, so that nothing of AWS is imported or looked up before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores.settings import Settings

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource
    from dagster_aws.secretsmanager import SecretsManagerResource


def s3(settings: Settings) -> S3Resource:
    """Give S3 of the configured region, or of another address for tests."""
    from dagster_aws.s3 import S3Resource

    return S3Resource(region_name=settings.aws_region, endpoint_url=settings.aws_endpoint_url)


def secrets(settings: Settings) -> SecretsManagerResource:
    """Give Secrets Manager of the configured region, or of another address for tests."""
    from dagster_aws.secretsmanager import SecretsManagerResource

    return SecretsManagerResource(region_name=settings.aws_region, endpoint_url=settings.aws_endpoint_url)
