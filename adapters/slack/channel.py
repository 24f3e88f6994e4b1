"""Assembly of the Slack channel, and the check of its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from adapters.article_links import ArticleLinks
from adapters.slack.client import BotIdentity, SlackClient
from adapters.slack.http_requests import SlackApi
from adapters.slack.inbound import SlackInbound
from adapters.slack.installations import App, Installations, OneInstallation, StoredInstallations
from adapters.slack.oauth import SlackOAuth
from adapters.slack.replies import Replies
from adapters.slack.slack_steering import SlackSteering
from adapters.slack.socket_mode import SlackSockets
from bot.access.accounts import Accounts
from bot.access.vault import Vault
from bot.chat.delivery import Never, NotNow, Unknown
from bot.chat.feedback import Feedback
from bot.chat.turns import Conversations
from bot.errors import MynaError
from bot.privacy.learning_consent import Consent
from bot.steering.steering import Steering
from storage.scope import Scope


@dataclass(frozen=True, slots=True)
class SlackConfig:
    """Connection settings: a bot token for one workspace, or client id and secret for many."""

    bot_token: str = ""
    signing_secret: str = ""
    app_token: str = ""
    client_id: str = ""
    client_secret: str = ""
    api_url: str = "https://slack.com/api/"
    public_url: str = ""

    @property
    def is_used(self) -> bool:
        return any((self.bot_token, self.signing_secret, self.app_token, self.client_id, self.client_secret))

    @property
    def takes_many_workspaces(self) -> bool:
        return bool(self.client_id)

    def check(self) -> None:
        """Raise `MynaError` for settings that are missing or exclude each other."""
        if bool(self.client_id) != bool(self.client_secret):
            raise MynaError("Slack needs both MYNA_SLACK_CLIENT_ID and MYNA_SLACK_CLIENT_SECRET, or neither.")
        if self.bot_token and self.client_id:
            raise MynaError(
                "MYNA_SLACK_BOT_TOKEN is for one workspace, MYNA_SLACK_CLIENT_ID for several that install the app at "
                "/slack/install. Set one of them."
            )
        if not self.bot_token and not self.client_id:
            raise MynaError(
                "Slack needs MYNA_SLACK_BOT_TOKEN, too: the token of the workspace where the app is installed."
            )
        if self.app_token and self.client_id:
            raise MynaError("MYNA_SLACK_APP_TOKEN (Socket Mode) serves one workspace, with MYNA_SLACK_BOT_TOKEN.")
        if not self.signing_secret and not self.app_token:
            raise MynaError(
                "Slack needs both a token and a way to reach Myna: MYNA_SLACK_SIGNING_SECRET for requests over HTTP, "
                "or MYNA_SLACK_APP_TOKEN for Socket Mode."
            )


class SlackChannel:
    """The Slack channel of a running agent; `replies` is its `Poster` for `bot.chat.delivery`."""

    def __init__(
        self,
        config: SlackConfig,
        scope: Scope,
        vault: Vault,
        links: ArticleLinks,
        conversations: Conversations,
        feedback: Feedback,
        consent: Consent,
        steering: Steering,
        accounts: Accounts,
    ) -> None:
        self._config = config
        self._scope = scope
        self._app = App(config.client_id, config.client_secret, config.api_url)
        self._one = SlackClient(config.bot_token, config.api_url) if config.bot_token else None
        self._many = StoredInstallations(scope, vault, self._app)
        installations: Installations = OneInstallation(self._one) if self._one else self._many
        self.replies = Replies(scope.database, installations, links)
        self._steering = SlackSteering(steering, accounts, installations)
        self.inbound = SlackInbound(
            scope, conversations, installations, self.replies, feedback, consent, self._steering
        )
        conversations.show_with(self.replies.channel, self.replies.show)

    def tell_of_harm(self, version: str, because: str) -> None:
        """Tell linked admins, in the background, that a canary was rolled back automatically."""
        self._steering.tell_of_harm(version, because)

    def routes(self) -> list[web.RouteDef]:
        """List the HTTP routes; empty with Socket Mode alone."""
        routes = SlackApi(self.inbound, self._config.signing_secret).routes() if self._config.signing_secret else []
        if self._config.takes_many_workspaces:
            oauth = SlackOAuth(self._many, self._scope, self._app, self._config.public_url.rstrip("/"))
            routes += oauth.routes()
        return routes

    async def work(self) -> None:
        """Keep the Socket Mode connections open until cancelled; return at once without Socket Mode."""
        if self._config.app_token:
            await SlackSockets(self.inbound, self._config.app_token, self._config.api_url).work()

    async def close(self) -> None:
        """Finish background calls for a moment, and close all connections."""
        await self.inbound.close()
        await self.replies.close()
        await self._many.close()
        if self._one is not None:
            await self._one.close()

    async def greet(self, say: Callable[[str], None]) -> None:
        """Report at start whether Slack accepts the token. After a failure, the first event asks again."""
        if self._one is None:
            count = len(await self._many.list_all())
            say(f"The Slack app is installed in {count} workspace{'' if count == 1 else 's'}; more at /slack/install.")
            return
        way = "over sockets" if self._config.app_token else "at /slack/events"
        try:
            identity: BotIdentity = await self._one.identity()
        except (NotNow, Never, Unknown) as error:
            say(f"Slack does not say who the bot is: {error}. Run `myna slack doctor`.")
        else:
            say(f"Slack knows Myna as {identity.user_id} in {identity.tenant}; its events are taken {way}.")
