"""Credentials in what is recorded: found by public rules, masked before anything is written.

A mark says what stood there and keeps two credentials apart, ``[masked OpenAI Token 3f9a01bc]``:
one credential has one mark wherever it stands. Its digits are of a SHA-256, which tells no more
than the key of the call does.

Source: the rules of ``detect-secrets``, but for those that look at entropy or at a word such as
``password`` before a value, which are wrong about ordinary prompts too often; and those below,
for what its authors have no rule for: keys of model hosts, and PEM blocks whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import NamedTuple
from urllib.parse import parse_qsl

_MARK = re.compile(r"\[masked [^\[\]]+ [0-9a-f]{8}\]")
#: Detector, and which group of its patterns is the credential (0: all that matches).
_PUBLIC_RULES = (
    ("artifactory.ArtifactoryDetector", 0),
    ("aws.AWSKeyDetector", 0),
    ("azure_storage_key.AzureStorageKeyDetector", 0),
    ("basic_auth.BasicAuthDetector", 1),
    ("cloudant.CloudantDetector", 0),
    ("discord.DiscordBotTokenDetector", 0),
    ("github_token.GitHubTokenDetector", 0),
    ("gitlab_token.GitLabTokenDetector", 0),
    ("ibm_cloud_iam.IbmCloudIamDetector", 0),
    ("ibm_cos_hmac.IbmCosHmacDetector", 0),
    ("mailchimp.MailchimpDetector", 0),
    ("npm.NpmDetector", 0),
    ("openai.OpenAIDetector", 0),
    ("pypi_token.PypiTokenDetector", 0),
    ("sendgrid.SendGridDetector", 0),
    ("slack.SlackDetector", 0),
    ("softlayer.SoftlayerDetector", 0),
    ("square_oauth.SquareOAuthDetector", 0),
    ("stripe.StripeDetector", 0),
    ("telegram_token.TelegramBotTokenDetector", 0),
    ("twilio.TwilioKeyDetector", 0),
)

#: Kind, group, and what the credential looks like. Each form is documented by its issuer. Patterns
#: that begin with a letter, and not with an alternative, are found many times as fast.
_OWN_RULES = (
    ("Anthropic key", 0, r"sk-ant-[A-Za-z0-9]+-[A-Za-z0-9_-]{20,}"),
    ("OpenRouter key", 0, r"sk-or-v1-[0-9a-f]{64}\b"),
    ("OpenAI key", 0, r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,}"),
    ("Google API key", 0, r"AIza[0-9A-Za-z_-]{35}"),
    ("Google OAuth token", 0, r"ya29\.[0-9A-Za-z_-]{20,}"),
    ("Hugging Face token", 0, r"hf_[A-Za-z]{34}\b"),
    ("Hugging Face token", 0, r"api_org_[A-Za-z]{34}\b"),
    ("Groq key", 0, r"gsk_[A-Za-z0-9]{52}\b"),
    ("xAI key", 0, r"xai-[A-Za-z0-9]{80}\b"),
    ("Replicate token", 0, r"r8_[A-Za-z0-9]{37}\b"),
    ("Fireworks key", 0, r"fw_[A-Za-z0-9]{24}\b"),
    ("Perplexity key", 0, r"pplx-[A-Za-z0-9]{48}\b"),
    ("NVIDIA key", 0, r"nvapi-[A-Za-z0-9_-]{64}"),
    ("GitHub fine-grained token", 0, r"github_pat_[A-Za-z0-9_]{82}\b"),
    ("npm token", 0, r"npm_[A-Za-z0-9]{36}\b"),
    ("Stripe test key", 0, r"sk_test_[0-9a-zA-Z]{24,}"),
    ("Stripe test key", 0, r"rk_test_[0-9a-zA-Z]{24,}"),
    ("Slack app token", 0, r"xapp-\d-[A-Z0-9]+-\d+-[a-f0-9]{64}"),
    ("JSON Web Token", 0, r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"),
    ("bearer token", 1, r"uthorization\W{1,4}(?:Bearer|bearer|Basic)\s+([\w.~+/-]{16,}=*)"),
    # In JSON text its line feeds are escaped.
    (
        "private key",
        0,
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]+?(?:-----END [^-]+-----|\Z)",
    ),
)

#: Query parameters whose value is a credential, whatever it looks like.
_SECRET_PARAMETERS = frozenset(
    {
        "access_key", "access_token", "api_key", "api-key", "apikey", "auth", "auth_token",
        "client_secret", "code", "key", "passwd", "password", "secret", "sig", "signature",
        "subscription-key", "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature",
    }
)  # fmt: skip


class Span(NamedTuple):
    """Where a credential stands in a text.

    Attributes:
        start: Its first character.
        end: The one after its last.
        kind: What it is.
    """

    start: int
    end: int
    kind: str


def find_credentials(text: str) -> list[Span]:
    """Credentials of a text, in order; those that overlap are one."""
    found = sorted(span for rule in _rules() for span in rule.spans(text))
    if not found:
        return []
    marks = [mark.span() for mark in _MARK.finditer(text)]
    chosen: list[Span] = []
    for span in found:
        if chosen and span.start < chosen[-1].end:
            chosen[-1] = chosen[-1]._replace(end=max(span.end, chosen[-1].end))
        elif not any(start < span.end and span.start < end for start, end in marks):
            chosen.append(span)
    return chosen


def find_in_target(target: str) -> list[Span]:
    """Credentials of a URL's path and query."""
    found = find_credentials(target)
    path, mark, query = target.partition("?")
    start = len(path) + len(mark)
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        names = [known for known, _ in parse_qsl(f"{name}=x")]
        if value and names and names[0].lower() in _SECRET_PARAMETERS:
            begin = start + len(name) + len(equals)
            found = [span for span in found if not begin <= span.start < start + len(part)]
            if not _MARK.fullmatch(value):
                found.append(Span(begin, start + len(part), "URL parameter"))
        start += len(part) + 1
    return sorted(found)


def mark_of(kind: str, credential: str) -> str:
    """What stands in a credential's place."""
    digest = hashlib.sha256(credential.encode("utf-8", "surrogatepass")).hexdigest()
    return f"[masked {kind} {digest[:8]}]"


class _Rule(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    group: int

    def spans(self, text: str) -> Iterator[Span]:
        for match in self.pattern.finditer(text):
            yield Span(*match.span(self.group), self.kind)


@cache
def _rules() -> tuple[_Rule, ...]:
    rules = [_Rule(kind, re.compile(pattern), group) for kind, group, pattern in _OWN_RULES]
    for name, group in _PUBLIC_RULES:
        module, _, detector = name.partition(".")
        # Its detectors give what a group holds, which may be a prefix: only their patterns serve.
        public = getattr(import_module(f"detect_secrets.plugins.{module}"), detector)
        rules += [_Rule(str(public.secret_type), pattern, group) for pattern in public.denylist]
    return tuple(rules)
