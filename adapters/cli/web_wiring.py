"""Wiring of the web channels: the web application of an agent, and the API of its admin page.

The channels are imported where they are built: a chat in a terminal starts without them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adapters.cli.wiring import Agent, article_links, reply_policy
from bot.access.installation import secret_keys
from bot.access.vault import stored_secret

if TYPE_CHECKING:
    from aiohttp import web

    from adapters.admin.admin_api import AdminApi
    from adapters.http.origins import Origins


def make_web_app(agent: Agent) -> web.Application:
    """Return the web application of an agent: chat, articles, API, admin page and Slack."""
    from adapters.admin.guard import Guard
    from adapters.http.origins import Origins
    from adapters.http.server import Api, make_app
    from adapters.openai.api import OpenAiApi
    from adapters.openai.response_form import error_body
    from adapters.openai.v1_feedback import OpenAiFeedback
    from adapters.web.article_pages import ArticlePages
    from adapters.web.chat_api import ChatApi, ChatPage
    from adapters.web.chat_steering import WebSteering
    from adapters.web.feedback_api import WebFeedback
    from adapters.web.pages import ChatPages
    from adapters.web.visitors import Visitors
    from bot.knowledge.library import Library

    settings = agent.settings
    visitors = Visitors(
        settings.secret or stored_secret(settings.data), secure_cookie=settings.public_url.startswith("https://")
    )
    origins = Origins(settings.allowed_origins, settings.public_url)
    steering = WebSteering(agent.steering, Guard(agent.accounts, origins))
    page = ChatPage(settings.title, settings.greeting, settings.max_message_chars)
    links = article_links(settings)
    articles = ArticlePages(Library(agent.scope), links, settings.title)
    chat = ChatApi(
        agent.conversations, agent.feedback, visitors, page, agent.metrics, steering, links, agent.workspace_id
    )
    opinions = WebFeedback(agent.conversations.history, visitors, agent.feedback, agent.consent, agent.workspace_id)
    # API callers set their own penalties; the default repetition penalty applies to chats only.
    sampling = replace(reply_policy(settings).sampling, repetition_penalty=settings.repetition_penalty or 1.0)
    models = OpenAiApi(agent.completions, agent.conversations, agent.access, sampling, links, agent.workspace_id)
    votes = OpenAiFeedback(agent.conversations.history, agent.feedback, agent.consent, agent.access, agent.workspace_id)
    apis: list[Api] = [ChatPages(origins), chat, opinions, articles, models, votes, make_admin_api(agent, origins)]
    if agent.slack is not None:
        apis.append(agent.slack)
    return make_app(apis, origins, agent.metrics, agent.checks, {"/v1/": error_body})


def make_admin_api(agent: Agent, origins: Origins) -> AdminApi:
    """Return the API of an agent's admin page."""
    from adapters.admin.assembly import assemble
    from bot.knowledge.knowledge_gaps import Gaps
    from bot.knowledge.library import Library
    from bot.privacy.erasure.erase_person import Erasure
    from bot.privacy.redaction.redactor import hide_personal_data

    settings = agent.settings
    erasure = Erasure(
        agent.scope, settings.data, secret_keys(settings), settings.erasure_policy, agent.released.note_change
    )
    library = Library(agent.scope)
    hide = hide_personal_data(settings.regions)
    gaps = Gaps(agent.scope, agent.grounding, library, hide)
    return assemble(
        agent.scope,
        title=settings.title,
        base=settings.model,
        origins=origins,
        accounts=agent.accounts,
        releases=agent.releases,
        consent=agent.consent,
        erasure=erasure,
        library=library,
        grounding=agent.grounding,
        gaps=gaps,
    )
