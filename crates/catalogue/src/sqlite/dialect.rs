//! What SQLite says differently, and how a step runs in it.

/// Labels or properties of an image, as a JSON object.
macro_rules! pairs_of_image {
    ($kind:literal) => {
        concat!(
            "(SELECT json_group_object(name, value) FROM image_texts WHERE image = images.id AND kind = '",
            $kind,
            "')"
        )
    };
}

/// Tags of an image, as a JSON list.
macro_rules! tags_of_image {
    () => {
        "(SELECT json_group_array(name) FROM image_texts WHERE image = images.id AND kind = 'tag')"
    };
}

/// Copies of an image, as a JSON list.
macro_rules! replicas_of_image {
    () => {
        "(SELECT json_group_array(json_object('store', store, 'blob', blob, 'state', image_replicas.state, \
         'create_time', image_replicas.create_time, 'update_time', image_replicas.update_time, \
         'verify_time', verify_time)) FROM image_replicas WHERE image = images.id)"
    };
}

/// The rows `wanted` with a `key` and a `value` each, from a JSON object.
macro_rules! wanted_pairs {
    ($parameter:literal) => {
        concat!("json_each(", $parameter, ") AS wanted")
    };
}

/// The rows `wanted` with a `value` each, from a JSON list.
macro_rules! wanted_words {
    ($parameter:literal) => {
        concat!("json_each(", $parameter, ") AS wanted")
    };
}

/// There is one writer: nobody else claims meanwhile.
macro_rules! lock_for_claim {
    () => {
        ""
    };
}

/// The index of live jobs. One that holds few or none has no statistics, and all jobs of a tenant can look cheaper.
macro_rules! by_turn {
    () => {
        "INDEXED BY jobs_by_turn "
    };
}

/// The index of imports that run, for the same reason.
macro_rules! by_running_import {
    () => {
        "INDEXED BY imports_running "
    };
}

/// Runs one step of the modules below in a transaction of its own, committed when it succeeds and rolled back otherwise.
macro_rules! in_transaction {
    ($catalogue:expr, $step:path $(, $argument:expr)*) => {{
        let mut transaction = $catalogue.begin().await?;
        let answer = $step(&mut transaction $(, $argument)*).await?;
        transaction.commit().await?;
        Ok(answer)
    }};
}

/// Runs one step on a reading connection; each step reads with one statement, hence one state of the database.
macro_rules! on_reader {
    ($catalogue:expr, $step:path $(, $argument:expr)*) => {{
        let mut connection = $catalogue.readers.acquire().await?;
        $step(&mut connection $(, $argument)*).await
    }};
}
