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
    "test_admin_answers.py": ("test_answers_are_filtered_by_the_server",),  # LIKE
    "test_admin_articles.py": (
        "test_an_upload_has_the_size_limit_of_a_local_file",  # large values
        "test_an_upload_is_read_listed_shown_and_removed",
        "test_several_changes_share_one_sync",  # a unique index
        "test_thousands_of_articles_are_filtered_by_the_server",  # LIKE, and letters of either case
    ),
    "test_admin_login.py": (
        "test_a_login_ends_after_its_time",  # times compared in SQL
        "test_a_name_is_taken_once",  # a race
        "test_all_logins_end_with_a_new_password_or_a_disabled_account",
        "test_a_linked_identity_acts_as_its_account",
        "test_there_is_always_an_admin",  # a race
    ),
    "test_admin_pages.py": (  # what the pages show is joined, grouped and paged in SQL
        "test_a_person_is_found_and_erased",
        "test_datasets_show_counts_examples_and_rejected_rows",
        "test_the_examples_of_a_version_are_counted",
        "test_the_newest_verdict_of_a_version_counts",
        "test_the_overview_shows_the_newest_of_everything",
        "test_the_queue_is_read_page_by_page",
        "test_two_people_on_one_release_do_not_undo_each_other",
    ),
    "test_answers.py": (
        "test_a_reply_draws_on_articles_and_cites_them",
        "test_articles_of_other_audiences_stay_hidden",  # audiences in SQL
        "test_the_web_chat_links_to_an_article_until_its_removal",
    ),
    "test_answers_by_people.py": (
        "test_a_gap_ends_once_an_article_answers_it",
        "test_similar_unanswered_questions_are_one_gap",
        "test_the_same_question_gets_the_verbatim_answer",
        "test_two_concurrent_changes_make_two_versions",  # a race
        "test_erasing_a_person_removes_their_curated_question",
    ),
    "test_intents.py": (
        "test_newly_trained_intents_apply_at_once",
        "test_calibration_does_not_restore_cleared_intents",  # a race
        "test_intents_give_verbatim_replies_and_are_counted",
        "test_a_stored_model_gives_the_same_scores",
    ),
    "test_learning_from_articles.py": ("test_a_reply_is_trained_on_its_original_prompt",),
    "test_openai_api.py": (
        "test_a_conversation_with_memory",
        "test_a_revoked_key_ends_at_once",  # a partial unique index
        "test_a_whole_answer",
        "test_tokens_a_day",  # a sum
    ),
    "test_web_bad_input.py": (
        "test_a_strange_text_is_stored_clean_and_answered",  # PostgreSQL takes no NUL, SQLite does
        "test_a_thousand_messages_to_one_chat_are_answered_in_order",
        "test_a_locked_database_refuses_messages_until_it_is_free",
    ),
    "test_web_chat.py": (
        "test_a_message_can_be_edited_back_and_forth_under_one_id",
        "test_a_second_delivery_gets_the_same_reply_and_adds_nothing",
        "test_an_edit_while_the_reply_runs_replaces_it",
        "test_another_reply_replaces_the_last_one",
        "test_asking_twice_for_another_reply_gives_one",
        "test_health_is_told_apart_from_readiness",
        "test_text_that_no_database_accepts_is_repaired",
        "test_two_visitors_with_the_same_chat_id_have_two_chats",
        "test_messages_are_in_the_history_and_in_the_list",  # order
    ),
    "test_web_feedback.py": (
        "test_a_no_is_stored_with_the_first_message",  # one transaction
        "test_a_vote_is_shown_after_a_reload_and_its_history_is_kept",
        "test_text_that_no_database_accepts_is_replaced",
    ),
}


def kinds_for(file: Path, test: str) -> tuple[str, ...]:
    """Return the kinds of database that a test runs on."""
    if file.parent != SCENARIOS:
        return KINDS
    named = ON_BOTH.get(file.name, ())
    return KINDS if named == ALL or test in named else KINDS[:1]
