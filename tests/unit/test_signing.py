"""Our signature is botocore's, byte for byte."""

import random
import string
import time

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from reservation.aws.signing import Signer

SERVICES = {
    "dynamodb": ("DynamoDB_20120810", "1.0"),
    "events": ("AWSEvents", "1.1"),
    "sqs": ("AmazonSQS", "1.0"),
}
REGIONS = ["us-east-1", "eu-west-3", "ap-northeast-2", "cn-north-1"]
OPERATIONS = ["TransactWriteItems", "GetItem", "Query", "PutEvents", "SendMessage"]


class Request:
    """A random request, and what botocore makes of it."""

    def __init__(self, chance: random.Random) -> None:
        self.region = chance.choice(REGIONS)
        self.service = chance.choice(sorted(SERVICES))
        prefix, version = SERVICES[self.service]
        self.host, scheme = chance.choice(
            [
                (f"{self.service}.{self.region}.amazonaws.com", "https"),
                (f"123456789012.ddb.{self.region}.amazonaws.com", "https"),
                ("127.0.0.1:21000", "http"),
                ("localhost:4566", "http"),
                ("[::1]:8000", "http"),
                ("ddb.internal:8443", "https"),
            ]
        )
        self.url = f"{scheme}://{self.host}/"
        self.content_type = f"application/x-amz-json-{version}"
        self.target = f"{prefix}.{chance.choice(OPERATIONS)}"
        self.credentials = _credentials(chance)
        self.body = chance.choice(
            [b"{}", chance.randbytes(chance.randrange(1, 9000)), ("é☃" * chance.randrange(1, 90)).encode()]
        )
        self.second = chance.randrange(1_500_000_000, 4_000_000_000)

    def signer(self) -> Signer:
        return Signer(region=self.region, service=self.service, host=self.host, content_type=self.content_type)

    def aws_request(self) -> AWSRequest:
        headers = {"X-Amz-Target": self.target, "Content-Type": self.content_type, "User-Agent": "not signed"}
        return AWSRequest("POST", self.url, data=self.body, headers=headers)

    def signed_by_botocore(self) -> tuple[str, str]:
        """X-Amz-Date and Authorization for `second`, from the steps that SigV4Auth.add_auth takes for the present."""
        auth = SigV4Auth(self.credentials, self.service, self.region)
        request = self.aws_request()
        request.context["timestamp"] = amz_date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.second))
        request.headers["X-Amz-Date"] = amz_date
        if self.credentials.token:
            request.headers["X-Amz-Security-Token"] = self.credentials.token
        signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        signed_headers = auth.signed_headers(auth.headers_to_sign(request))
        return amz_date, (
            f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={signed_headers}, Signature={signature}"
        )


def _credentials(chance: random.Random) -> ReadOnlyCredentials:
    def text(alphabet: str, length: int) -> str:
        return "".join(chance.choices(alphabet, k=length))

    token = chance.choice([None, text(string.ascii_letters + "/+=", chance.randrange(100, 1000))])
    return ReadOnlyCredentials("AKIA" + text(string.ascii_uppercase, 16), text(string.ascii_letters + "/+", 40), token)


@pytest.mark.parametrize("seed", range(200))
def test_the_signature_is_botocores_at_any_second(seed: int) -> None:
    request = Request(random.Random(seed))
    signed = request.signer().sign(request.target, request.body, request.credentials, request.second)
    assert signed == request.signed_by_botocore()


def test_the_signature_is_the_one_that_botocore_sends_now() -> None:
    """The whole of add_auth, at the second that it chose itself."""
    for seed in range(20):
        request = Request(random.Random(seed))
        sent = request.aws_request()
        SigV4Auth(request.credentials, request.service, request.region).add_auth(sent)
        second = int(time.mktime(time.strptime(sent.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")) - time.timezone)
        signed = request.signer().sign(request.target, request.body, request.credentials, second)
        assert signed == (sent.headers["X-Amz-Date"], sent.headers["Authorization"])


def test_one_signer_follows_seconds_days_targets_and_rotated_credentials() -> None:
    """Nothing that it keeps outlives what it was made of."""
    chance = random.Random(7)
    request = Request(chance)
    signer = request.signer()
    keys = [_credentials(chance) for _ in range(3)]
    seconds = [request.second + step for step in (0, 1, 86_400, 0, -86_400)]
    for _ in range(200):
        request.credentials = chance.choice(keys)
        request.second = chance.choice(seconds)
        request.target = f"DynamoDB_20120810.{chance.choice(OPERATIONS)}"
        request.body = chance.randbytes(50)
        signed = signer.sign(request.target, request.body, request.credentials, request.second)
        assert signed == request.signed_by_botocore()
