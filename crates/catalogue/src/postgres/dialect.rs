//! What PostgreSQL says differently, and how a step runs in it.

/// Labels or properties of an image, as a JSON object.
macro_rules! pairs_of_image {
    ($kind:literal) => {
        concat!(
            "(SELECT COALESCE(json_object_agg(name, value), '{}')::TEXT FROM image_texts \
             WHERE image = images.id AND kind = '",
            $kind,
            "')"
        )
    };
}

/// Tags of an image, as a JSON list.
macro_rules! tags_of_image {
    () => {
        "(SELECT COALESCE(json_agg(name), '[]')::TEXT FROM image_texts WHERE image = images.id AND kind = 'tag')"
    };
}

/// Copies of an image, as a JSON list.
macro_rules! replicas_of_image {
    () => {
        "(SELECT COALESCE(json_agg(json_build_object('store', store, 'blob', blob, 'state', image_replicas.state, \
         'create_time', image_replicas.create_time, 'update_time', image_replicas.update_time, \
         'verify_time', verify_time)), '[]')::TEXT FROM image_replicas WHERE image = images.id)"
    };
}

/// The rows `wanted` with a `key` and a `value` each, from a JSON object.
macro_rules! wanted_pairs {
    ($parameter:literal) => {
        concat!("json_each_text(", $parameter, "::JSON) AS wanted (key, value)")
    };
}

/// The rows `wanted` with a `value` each, from a JSON list.
macro_rules! wanted_words {
    ($parameter:literal) => {
        concat!("json_array_elements_text(", $parameter, "::JSON) AS wanted (value)")
    };
}

/// Claimers take different jobs: what another one is looking at is passed over.
macro_rules! lock_for_claim {
    () => {
        " FOR UPDATE SKIP LOCKED"
    };
}

/// The index of live jobs: it is found by its condition.
macro_rules! by_turn {
    () => {
        ""
    };
}

/// The index of imports that run: it is found by its condition.
macro_rules! by_running_import {
    () => {
        ""
    };
}

/// Runs one step of the modules beside in a transaction of its own, committed when it succeeds and rolled back otherwise;
/// again when it met another transaction.
macro_rules! in_transaction {
    ($catalogue:expr, $step:path $(, $argument:expr)*) => {{
        let mut tries = super::Tries(0);
        loop {
            let tried = async {
                let _turn = $catalogue.may_write().await?;
                let mut transaction = $catalogue.begin().await?;
                let answer = $step(&mut transaction $(, Clone::clone(&$argument))*).await?;
                transaction.commit().await?;
                Ok::<_, crate::Error>(answer)
            };
            match tried.await {
                Err(error) if super::met_another(&error) => {
                    if let Err(error) = tries.pause(error).await {
                        break Err(error);
                    }
                }
                ended => break ended,
            }
        }
    }};
}

/// Runs one step on any connection; each step reads with one statement, hence one state of the database.
macro_rules! on_reader {
    ($catalogue:expr, $step:path $(, $argument:expr)*) => {{
        let mut connection = $catalogue.pool.acquire().await?;
        $step(&mut connection $(, $argument)*).await
    }};
}
