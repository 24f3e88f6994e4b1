"""Choice of the tests that run on both kinds of database.

A scenario runs on SQLite alone unless it is named here: what proves HTTP, parsing, roles or words proves it on any
database. All other tests that take a database, as those of `tests/contract`, run on both.
"""

from __future__ import annotations

from pathlib import Path

KINDS = ("sqlite", "postgresql")
SCENARIOS = Path(__file__).parent.parent / "scenarios"
ALL = ("*",)

ON_BOTH: dict[str, tuple[str, ...]] = {
    # Whole files: what they are about is SQL, its locks, order and dialect, or what a crash leaves.
    "test_audit_log.py": ALL,  # triggers
    "test_blind_judging.py": ALL,  # drawn by hash in SQL
    "test_cli.py": ALL,  # migrations and exports
    "test_conversations.py": ALL,  # leases of turns
    "test_datasets.py": ALL,  # what may be learnt is chosen by SQL
    "test_delivery.py": ALL,  # the outbox and its leases
    "test_erasure.py": ALL,  # cascades, locks between two processes
    "test_import_export.py": ALL,  # one transaction, killed in the middle; order of rows
    "test_jobs.py": ALL,  # claims and fencing
    "test_knowledge.py": ALL,  # the vector index: pgvector or our own
    "test_releases.py": ALL,  # one champion, two who decide
    "test_slack_installations.py": ALL,  # secrets, renewed by one of several processes
    # Single tests of files that are about something else.
    "test_admin_answers.py": ("test_answers_are_filtered_here",),  # LIKE
    "test_admin_articles.py": (
        "test_a_list_of_thousands_is_filtered_here",  # LIKE, and letters of either case
        "test_an_upload_is_read_listed_shown_and_removed",
        "test_an_upload_may_be_as_large_as_a_file_that_is_read",  # large values
        "test_several_changes_wait_for_one_reading",  # a unique index
    ),
    "test_admin_login.py": (
        "test_a_login_ends_after_its_time",  # times compared in SQL
        "test_a_name_is_given_once",  # a race
        "test_all_logins_end_with_another_password_and_when_shut_out",
        "test_somebody_on_a_channel_is_who_they_are_linked_to",
        "test_there_is_always_an_admin",  # a race
    ),
    "test_admin_pages.py": (  # what the pages show is joined, grouped and paged in SQL
        "test_a_person_is_found_and_erased_for_good",
        "test_datasets_tell_what_is_in_them",
        "test_the_newest_verdict_of_a_version_counts",
        "test_the_overview_shows_the_newest_of_everything",
        "test_the_queue_is_read_page_by_page",
        "test_two_who_act_on_the_same_release_do_not_undo_each_other",
        "test_what_a_version_learnt_is_counted",
    ),
    "test_answers.py": (
        "test_a_reply_is_made_from_the_articles_and_cites_them",
        "test_articles_of_others_are_as_if_they_were_not_there",  # audiences in SQL
        "test_the_web_chat_links_to_the_article_until_it_is_gone",
    ),
    "test_answers_by_people.py": (
        "test_a_gap_is_gone_once_an_article_answers_it",
        "test_alike_questions_without_an_answer_are_one_gap",
        "test_the_same_question_gets_the_answer_word_for_word",
        "test_two_changes_at_once_are_two_versions",  # a race
        "test_whoever_is_erased_takes_their_question_along",
    ),
    "test_intents.py": (
        "test_a_new_set_takes_the_place_of_the_old_one_at_once",
        "test_a_threshold_does_not_bring_back_what_was_replaced_meanwhile",  # a race
        "test_an_intent_with_a_reply_is_answered_word_for_word_and_all_are_counted",
        "test_what_was_computed_survives_being_stored",
    ),
    "test_learning_from_articles.py": ("test_a_reply_is_learnt_with_the_very_prompt_it_was_made_from",),
    "test_openai_api.py": (
        "test_a_conversation_of_ours",
        "test_a_revoked_key_ends_at_once",  # a partial unique index
        "test_a_whole_answer",
        "test_tokens_a_day",  # a sum
    ),
    "test_web_bad_input.py": (
        "test_a_strange_text_is_stored_clean_and_answered",  # PostgreSQL takes no NUL, SQLite does
        "test_a_thousand_messages_at_once_to_one_chat_are_all_answered_once_and_in_order",
        "test_with_a_locked_database_messages_are_refused_until_it_is_free",
    ),
    "test_web_chat.py": (
        "test_a_message_can_be_edited_back_and_forth_under_one_id",
        "test_a_second_delivery_gets_the_same_reply_and_adds_nothing",
        "test_an_edit_while_the_reply_runs_replaces_it",
        "test_another_answer_takes_the_place_of_the_last_reply",
        "test_asking_twice_for_another_answer_to_the_same_reply_gives_one",
        "test_health_is_told_apart_from_readiness",
        "test_text_that_no_database_takes_is_repaired",
        "test_two_visitors_with_the_same_chat_id_have_two_chats",
        "test_what_was_said_is_in_the_history_and_in_the_list",  # order
    ),
    "test_web_feedback.py": (
        "test_a_no_is_stored_with_the_first_message",  # one transaction
        "test_a_vote_is_shown_after_a_reload_and_its_history_is_kept",
        "test_what_no_database_takes_is_replaced",
    ),
}


def kinds_for(file: Path, test: str) -> tuple[str, ...]:
    """Return the kinds of database that a test runs on."""
    if file.parent != SCENARIOS:
        return KINDS
    named = ON_BOTH.get(file.name, ())
    return KINDS if named == ALL or test in named else KINDS[:1]
