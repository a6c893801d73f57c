"""The table of attacks that must fail (PROTOCOL A7), row by row, and the tests that run them.

``ours`` run the attack against fedward, ``flower`` run it against Flower 1.41's SecAgg+ and show
that it works there.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SECURITY, PROTOCOL = "security/test_attacks_{}.py", "protocol/test_{}.py"
SURVIVORS, KEYS, MODEL = map(SECURITY.format, ("survivors", "keys", "model"))
EVIDENCE = SECURITY.format("evidence")
REPLAY, KILLS, PROCESSES = map(SECURITY.format, ("replay", "restarts", "processes"))
SECAGG, MESSAGES = PROTOCOL.format("secagg_attacks"), PROTOCOL.format("secagg_messages")
SERVER, STATES = PROTOCOL.format("secagg_server"), PROTOCOL.format("secagg_states")
ORDERS, RESTARTS = PROTOCOL.format("site_orders"), PROTOCOL.format("round_restarts")
ADMISSION = PROTOCOL.format("admission")
PRIMITIVES, VECTORS = "unit/test_secagg_primitives.py", "vectors/test_secagg_vectors.py"

ROWS = (
    "server lists one site as both active and dropped",
    "server swaps or invents public keys",
    "server enrols invented sites",
    "a colluding site signs another site's round key, or an equivalent point",
    "server shows different survivor sets, U1, keys or models to different sites",
    "t copies of one signature",
    "server isolates one site, or a set below t_min",
    (
        "replay of a round, plan, signature, y, or of a share ciphertext under another e or plan; "
        "a share reflected to its sender"
    ),
    "two requests for the same e that differ",
    "site killed and restarted at any step; backup restored with old seeds",
    "brute force of a mask seed",
    "a late y after its owner was declared dropped",
    "server publishes a false sum",
    (
        "crafted model that makes a site crash, refuse or answer late if a patient has a property; "
        "imprint or dominating-gradient model"
    ),
    "server repeats a model with U2 and U2 minus i",
    "malformed, truncated, oversized, non-canonical, wrong-length message",
    "two processes debiting or answering at once",
)


@dataclass(frozen=True)
class Shown:
    """Where one row is run: (file, test) pairs."""

    ours: tuple[tuple[str, str], ...]
    flower: tuple[tuple[str, str], ...] = ()


TABLE = {
    ROWS[0]: Shown(
        (
            (SURVIVORS, "test_no_way_of_telling_two_survivor_sets_gets_both_seeds_of_one_site"),
            (SURVIVORS, "test_a_site_that_signed_one_set_serves_no_other"),
            (SECAGG, "test_both_shares_of_one_peer_are_never_kept_after_agreement"),
        ),
        ((SURVIVORS, "test_flower_works_one_client_active_and_dead_in_one_request"),),
    ),
    ROWS[1]: Shown(
        (
            (KEYS, "test_round_keys_that_the_server_made_are_refused_before_any_debit"),
            (SECAGG, "test_a_swapped_part_of_a_round_key_is_refused"),
            (SECAGG, "test_a_swapped_encryption_key_cannot_open_shares"),
            (ADMISSION, "test_approvals_must_be_every_members_own_for_this_plan"),
        ),
        ((KEYS, "test_flower_works_a_server_that_shows_its_own_keys"),),
    ),
    ROWS[2]: Shown(
        (
            (KEYS, "test_a_roster_of_invented_hospitals_is_not_approved_and_does_not_begin"),
            (SECAGG, "test_an_invented_site_is_not_in_the_roster"),
        ),
        ((KEYS, "test_flower_works_a_server_that_enrols_its_own_clients"),),
    ),
    ROWS[3]: Shown(
        (
            (KEYS, "test_another_members_round_key_gives_no_mask_that_cancels"),
            (PRIMITIVES, "test_equivalent_points_share_a_secret_but_no_mask"),
            (VECTORS, "test_equivalent_points_agree_on_a_secret_and_not_on_a_mask"),
        ),
        ((KEYS, "test_flower_works_a_colluder_with_another_clients_key_cancels_the_pair_masks"),),
    ),
    ROWS[4]: Shown(
        (
            (SURVIVORS, "test_no_way_of_telling_two_survivor_sets_gets_both_seeds_of_one_site"),
            (
                SURVIVORS,
                "test_two_round_keys_of_a_colluder_split_the_sites_into_groups_that_never_agree",
            ),
            (SURVIVORS, "test_sites_that_were_given_different_models_never_agree"),
            (SECAGG, "test_sites_that_were_shown_different_u1_never_agree"),
            (SECAGG, "test_sites_that_were_shown_different_rounds_never_agree"),
            (SECAGG, "test_signatures_on_another_survivor_set_or_round_do_not_count"),
        ),
        ((SURVIVORS, "test_flower_works_two_survivor_sets_told_to_two_halves"),),
    ),
    ROWS[5]: Shown(
        (
            (SURVIVORS, "test_copies_and_inventions_of_agreements_release_nothing"),
            (SECAGG, "test_t_copies_of_one_signature_are_one"),
        ),
    ),
    ROWS[6]: Shown(
        (
            (SURVIVORS, "test_a_site_never_agrees_to_a_round_in_which_it_stands_alone"),
            (SECAGG, "test_u1_must_reach_t_min"),
            (SECAGG, "test_u2_must_reach_t_min"),
        ),
        ((SURVIVORS, "test_flower_works_a_client_in_a_round_of_its_own"),),
    ),
    ROWS[7]: Shown(
        (
            (REPLAY, "test_no_message_of_a_finished_round_serves_another"),
            (REPLAY, "test_no_message_of_a_finished_round_passes_the_server"),
            (REPLAY, "test_orders_of_a_finished_attempt_bring_nothing_new"),
            (SECAGG, "test_a_share_that_is_not_for_this_site_is_reported_missing"),
            (SECAGG, "test_a_share_of_an_earlier_attempt_does_not_open"),
            (ADMISSION, "test_a_study_is_not_begun_twice_under_other_approvals"),
        ),
    ),
    ROWS[8]: Shown(
        (
            (REPLAY, "test_a_second_request_for_one_e_gets_no_second_addend"),
            (SECAGG, "test_a_second_survivor_set_is_never_signed"),
            (
                RESTARTS,
                "test_a_repeated_order_gets_the_stored_bytes_and_a_different_one_a_refusal",
            ),
        ),
    ),
    ROWS[9]: Shown(
        (
            (KILLS, "test_a_site_killed_at_any_moment_of_a_step_never_says_two_things"),
            (KILLS, "test_a_restored_backup_of_an_older_attempt_opens_no_seed"),
            (KILLS, "test_a_backup_restored_within_its_own_attempt_gives_no_second_addend"),
            (RESTARTS, "test_a_restored_database_cannot_open_the_seeds_of_an_old_attempt"),
            (STATES, "test_a_restart_at_any_step_sends_the_same_bytes"),
        ),
    ),
    ROWS[10]: Shown(
        (
            (KEYS, "test_a_mask_seed_has_128_bits_and_every_one_of_them_counts"),
            (KEYS, "test_no_bit_of_a_mask_key_is_fixed"),
        ),
        ((KEYS, "test_flower_works_the_pair_mask_is_found_by_search"),),
    ),
    ROWS[11]: Shown(
        (
            (SURVIVORS, "test_a_late_addend_is_of_no_use_with_all_that_the_server_ever_gets"),
            (SECAGG, "test_a_late_addend_stays_masked"),
        ),
        (
            (
                SURVIVORS,
                "test_flower_works_a_late_vector_lies_behind_a_self_mask_of_32_bits",
            ),
        ),
    ),
    ROWS[12]: Shown(
        (
            (EVIDENCE, "test_a_server_that_publishes_a_false_sum_is_caught_by_an_audit"),
            (EVIDENCE, "test_evidence_that_proves_nothing_is_refused_and_true_evidence_taken"),
            (EVIDENCE, "test_a_lie_is_caught_over_the_grid_that_flower_uses"),
            (MODEL, "test_a_false_sum_is_found_by_whoever_recomputes_it"),
            (MODEL, "test_a_false_sum_by_a_false_seed_or_a_smaller_set_is_found"),
            (SERVER, "test_every_part_of_a_transcript_is_checked"),
            (SERVER, "test_served_addends_must_be_those_that_were_signed"),
        ),
    ),
    ROWS[13]: Shown(
        (
            (MODEL, "test_a_crafted_model_changes_nothing_that_shows"),
            (MODEL, "test_under_a_crafted_model_no_patient_weighs_more_than_the_clip"),
            (MODEL, "test_a_model_that_singles_out_one_patient_reads_it_from_a_plain_sum_only"),
            (MODEL, "test_a_published_sum_of_extremes_is_answered_like_any_other"),
            (ORDERS, "test_the_addend_leaves_at_the_plans_delay_and_a_late_one_not_at_all"),
        ),
    ),
    ROWS[14]: Shown(
        (
            (MODEL, "test_a_model_whose_sum_was_opened_is_never_computed_on_again"),
            (MODEL, "test_a_repeated_model_brings_new_noise_a_debit_each_and_soon_a_refusal"),
            (MODEL, "test_a_model_that_was_passed_is_never_computed_on_again"),
        ),
        ((MODEL, "test_flower_works_two_rounds_on_one_model_differ_by_one_client"),),
    ),
    ROWS[15]: Shown(
        (
            (MESSAGES, "test_no_prefix_and_no_extension_is_accepted"),
            (MESSAGES, "test_an_oversized_message_is_refused_unread"),
            (MESSAGES, "test_a_changed_byte_is_refused_or_another_message"),
            (MESSAGES, "test_a_field_of_another_type_or_length_is_refused"),
            (ORDERS, "test_mangled_bytes_are_refused_for_what_they_are"),
            (ORDERS, "test_invented_messages_are_refused_for_what_they_are"),
            (VECTORS, "test_a_bad_request_is_refused_for_its_defect"),
        ),
    ),
    ROWS[16]: Shown(
        (
            (KILLS, "test_two_processes_debiting_at_once_debit_each_attempt_once_and_pass_no_cap"),
            (
                KILLS,
                "test_two_processes_of_one_site_never_let_two_addends_of_one_attempt_leave",
            ),
            (PROCESSES, "test_a_process_that_stalls_sends_no_second_addend_of_an_attempt"),
            (PROCESSES, "test_a_process_that_stalls_signs_no_second_survivor_set"),
            (PROCESSES, "test_a_process_that_stalls_does_not_end_the_attempt_after"),
        ),
    ),
}


@cache
def _defined(name: str) -> dict[str, str]:
    """The tests of a file, with their docstrings."""
    tree = ast.parse((TESTS / name).read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {node.name: ast.get_docstring(node) or "" for node in found}


def test_every_row_is_run():
    assert set(TABLE) == set(ROWS)
    assert len(set(ROWS)) == 17
    assert all(shown.ours for shown in TABLE.values())


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_run_by_tests_that_exist(row):
    for name, test in TABLE[row].ours:
        assert test in _defined(name), f"{name}: {test}"
    for name, test in TABLE[row].flower:
        assert _defined(name)[test].startswith("Flower: works.")


def test_every_attack_on_flower_is_in_the_table():
    listed = {test for shown in TABLE.values() for _, test in shown.flower}
    files = (path.relative_to(TESTS) for path in (TESTS / "security").glob("test_attacks_*.py"))
    defined = {test for name in files for test in _defined(str(name))}
    assert listed == {test for test in defined if test.startswith("test_flower_works")}


def test_the_threat_model_names_every_row_and_its_first_test():
    text = (TESTS.parent / "docs" / "threat-model.md").read_text(encoding="utf-8")
    for row, shown in TABLE.items():
        assert f"| {row} |" in text
        assert shown.ours[0][1] in text
