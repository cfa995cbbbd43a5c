-- One receipt: stored with its transfers, flags, journal row and a row in the outbox, or counted as sent again, or neither.
--
-- Returns one word:
--   stored      it is new
--   duplicate   the same content is stored: counted where it was pushed, and its station is kept
--   differs     another content is stored under its key: nothing was written, the documents must be compared
--   retry       turned away by another receipt with this ordinal of its notice, or by a row that this statement cannot
--               see, since it was committed after the statement began: nothing was written, and the same statement
--               decides with the next ordinal and snapshot
--
-- `notice_ordinal` is 0 for the first receipt of its notice, which nearly all are: it is looked up for a retry only.
-- `same_as` is the hash of its content, or once it was compared and added to the documents of a stored receipt, that
-- receipt's. `own` is when an earlier try of this arrival came, if its commit is in doubt: that one is not counted twice.
-- To EXPLAIN it, put NULL in the places of its parameters, as tests/test_save.py does.
WITH stored AS (
    INSERT INTO receipt (
        id_pa, receipt_id, id_broker_pa, id_station, notice_number, fiscal_code, iuv, outcome, amount, fee,
        primary_ci_incurred_fee, description, company_name, office_name, debtor_type, debtor_id, debtor_name,
        payer_type, payer_id, payer_name, id_psp, psp_fiscal_code, psp_partita_iva, psp_company_name, id_channel,
        channel_description, payment_method, payment_note, id_bundle, id_ci_bundle, payment_date_time,
        application_date, transfer_date, metadata, stand_in, digital_stamp, version, content_hash, source,
        received_at, charset, raw, resends,
        notice_ordinal
    ) VALUES (
        %(id_pa)s::text, %(receipt_id)s::text, %(id_broker_pa)s::text, %(id_station)s::text, %(notice_number)s::text,
        %(fiscal_code)s::text, %(iuv)s, %(outcome)s, %(amount)s, %(fee)s,
        %(primary_ci_incurred_fee)s, %(description)s, %(company_name)s, %(office_name)s, %(debtor_type)s,
        %(debtor_id)s, %(debtor_name)s, %(payer_type)s, %(payer_id)s, %(payer_name)s, %(id_psp)s, %(psp_fiscal_code)s,
        %(psp_partita_iva)s, %(psp_company_name)s, %(id_channel)s, %(channel_description)s, %(payment_method)s,
        %(payment_note)s, %(id_bundle)s, %(id_ci_bundle)s, %(payment_date_time)s, %(application_date)s,
        %(transfer_date)s, %(metadata)s, %(stand_in)s, %(digital_stamp)s, %(version)s, %(content_hash)s::bytea,
        %(source)s::text, %(received_at)s::timestamptz, %(charset)s, %(raw)s, 0,
        %(notice_ordinal)s::integer
    )
    ON CONFLICT DO NOTHING
    RETURNING id_pa, receipt_id, received_at
),
resent AS (
    UPDATE receipt SET
        resends = resends + CASE
            WHEN %(source)s::text <> 'push' OR %(own)s::timestamptz IN (received_at, last_resend_at) THEN 0 ELSE 1 END,
        last_resend_at = CASE
            WHEN %(source)s::text <> 'push' OR %(own)s::timestamptz = received_at THEN last_resend_at
            ELSE %(received_at)s::timestamptz END
    WHERE id_pa = %(id_pa)s::text AND receipt_id = %(receipt_id)s::text
    AND content_hash = %(same_as)s
    AND NOT EXISTS (SELECT FROM stored)
    RETURNING id_pa, receipt_id, received_at, id_broker_pa, id_station
),
its_transfers AS (
    INSERT INTO transfer (
        id_pa, receipt_id, position, id_transfer, amount, fiscal_code_pa, company_name, iban, digital_stamp,
        remittance_information, transfer_category, metadata
    )
    SELECT stored.id_pa, stored.receipt_id, each.*
    FROM stored, json_to_recordset(%(transfers)s::json) AS each (
        position smallint, id_transfer smallint, amount numeric, fiscal_code_pa text, company_name text, iban text,
        digital_stamp boolean, remittance_information text, transfer_category text, metadata json
    )
),
its_flags AS (
    INSERT INTO receipt_flag (id_pa, receipt_id, flag, received_at)
    SELECT id_pa, receipt_id, flag, received_at
    FROM stored, unnest(%(flags)s::text[]) AS flag
),
its_station AS (
    INSERT INTO receipt_route (id_pa, receipt_id, id_broker_pa, id_station, first_at, received_at)
    SELECT id_pa, receipt_id, %(id_broker_pa)s::text, %(id_station)s::text, %(received_at)s::timestamptz, received_at
    FROM resent
    WHERE %(source)s::text = 'push'
    AND (id_broker_pa, id_station) <> (%(id_broker_pa)s::text, %(id_station)s::text)
    ON CONFLICT DO NOTHING
),
its_outbox AS (
    INSERT INTO outbox (at, id_pa, receipt_id, revision)
    SELECT received_at, id_pa, receipt_id, 1
    FROM stored
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
        %(journal.payment_method)s, became.outcome, %(journal.fault_code)s, %(journal.http_status)s,
        %(journal.duration_ms)s, %(journal.size)s, %(journal.document_hash)s, %(journal.request_id)s,
        %(journal.peer_subject)s
    FROM (SELECT 'stored' AS outcome FROM stored UNION ALL SELECT 'duplicate' FROM resent) AS became
    WHERE %(journal.event_id)s::bigint IS NOT NULL  -- there is a journal
    ON CONFLICT DO NOTHING
)
SELECT coalesce(
    (SELECT 'stored' FROM stored),
    (SELECT 'duplicate' FROM resent),
    (SELECT 'differs' FROM receipt WHERE id_pa = %(id_pa)s::text AND receipt_id = %(receipt_id)s::text),
    'retry'
)
