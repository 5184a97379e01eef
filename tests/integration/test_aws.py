"""The AWS resources against a real HTTP server that speaks AWS: moto's, in this process."""

import pytest

from amazon import serving_amazon
from orchestration import aws
from stores.settings import Settings


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with serving_amazon() as address:
        yield Settings(home=tmp_path, aws_endpoint_url=address)


def test_s3_keeps_an_object(settings):
    client = aws.s3(settings).get_client()
    location = {"LocationConstraint": settings.aws_region}
    client.create_bucket(Bucket="landing", CreateBucketConfiguration=location)
    client.put_object(Bucket="landing", Key="logins/acme/1", Body=b"sealed")
    assert client.get_object(Bucket="landing", Key="logins/acme/1")["Body"].read() == b"sealed"


def test_secrets_manager_keeps_one_secret_for_each_tenant_and_epoch(settings):
    client = aws.secrets(settings).get_client()
    client.create_secret(Name="lockhouse/acme/1", SecretBinary=b"root")
    assert client.get_secret_value(SecretId="lockhouse/acme/1")["SecretBinary"] == b"root"
