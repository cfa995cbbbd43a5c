-- One refused request with its history and its journal row. Returns kept, or no row where the same bytes were refused
-- before: nothing was written then, and the row that is there is changed in a transaction.
-- To EXPLAIN it, put NULL in the places of its parameters, as tests/test_save.py does.
WITH kept AS (
    INSERT INTO refused (
        id_pa, raw_hash, refused_id, operation, id_broker_pa, id_station, receipt_id, notice_number, iuv, source,
        peer, request_id, fault_code, reason, state, received_at, times, last_at, charset, raw
    ) VALUES (
        %(id_pa)s, %(raw_hash)s, %(refused_id)s, %(operation)s, %(id_broker_pa)s, %(id_station)s, %(receipt_id)s,
        %(notice_number)s, %(iuv)s, %(source)s, %(peer)s, %(request_id)s, %(fault_code)s, %(reason)s, %(state)s,
        %(received_at)s, %(times)s, %(last_at)s, %(charset)s, %(raw)s
    )
    ON CONFLICT DO NOTHING
    RETURNING id_pa, raw_hash, received_at, source, fault_code, reason
),
its_history AS (
    INSERT INTO refused_history (id_pa, raw_hash, number, at, result, source, operator, fault_code, reason)
    SELECT id_pa, raw_hash, 1, received_at, 'refused', source, %(operator)s, fault_code, reason FROM kept
),
its_exchange AS (
    INSERT INTO journal (
        id_pa, at, event_id, direction, source, operation, id_broker_pa, id_station, notice_number, iuv, receipt_id,
        id_psp, id_channel, payment_method, outcome, fault_code, http_status, duration_ms, size, document_hash,
        request_id, peer_subject
    )
    SELECT
        %(journal.id_pa)s, %(journal.at)s, %(journal.event_id)s::bigint, %(journal.direction)s, %(journal.source)s,
        %(journal.operation)s, %(journal.id_broker_pa)s, %(journal.id_station)s, %(journal.notice_number)s,
        %(journal.iuv)s, %(journal.receipt_id)s, %(journal.id_psp)s, %(journal.id_channel)s,
        %(journal.payment_method)s, %(journal.outcome)s, %(journal.fault_code)s, %(journal.http_status)s,
        %(journal.duration_ms)s, %(journal.size)s, %(journal.document_hash)s, %(journal.request_id)s,
        %(journal.peer_subject)s
    FROM kept
    WHERE %(journal.event_id)s::bigint IS NOT NULL  -- there is a journal
    ON CONFLICT DO NOTHING
)
SELECT 'kept' FROM kept
