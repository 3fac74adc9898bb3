// Trains an exported training.onnx with nothing but ONNX Runtime's Java API (on Android: onnxruntime-android): the loop of train.py. JSON by Jackson.
//
//   kotlinc -cp onnxruntime.jar:jackson-databind.jar:jackson-core.jar:jackson-annotations.jar examples/training_loop/Train.kt -include-runtime -d train.jar
//   java -cp train.jar:onnxruntime.jar:.. TrainKt FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.ObjectMapper
import java.io.File

val PARTS = listOf("trainable", "adam_m", "adam_v")

fun main(given: Array<String>) {
    val folder = given[0]
    val rows = File(given[1]).readLines().map { ObjectMapper().readTree(it) }
    val steps = given.getOrNull(2)?.toInt() ?: 6
    val size = given.getOrNull(3)?.toInt() ?: 3
    val rate = given.getOrNull(4)?.toFloat() ?: 1e-3f

    val environment = OrtEnvironment.getEnvironment()
    val session = environment.createSession("$folder/training.onnx")
    var before = environment.createSession("$folder/initial.onnx").run(emptyMap())
    for (step in 1..steps) {
        val feeds = HashMap<String, OnnxTensor>()
        for (part in PARTS) feeds[part] = before.get(if (step == 1) part else "${part}_next").get() as OnnxTensor
        feeds["step"] = OnnxTensor.createTensor(environment, step.toLong())
        feeds["learning_rate"] = OnnxTensor.createTensor(environment, rate)
        for (name in listOf("input_ids", "attention_mask", "labels", "position_ids").filter { it in session.inputNames }) {
            val numbers = Array(size) { column(rows[((step - 1) * size + it) % rows.size], name) }
            feeds[name] = OnnxTensor.createTensor(environment, numbers)
        }
        val out = session.run(feeds)
        before.close()
        before = out
        println("{\"step\": $step, \"loss\": ${out.get("loss").get().value}}")
    }
}

/** The numbers of a row's column; positions count what the mask lets through, from 0. */
fun column(row: JsonNode, name: String): LongArray {
    if (row.has(name)) return row[name].map { it.asLong() }.toLongArray()
    var seen = 0L
    return row["attention_mask"].map { seen += it.asLong(); maxOf(seen - 1, 0) }.toLongArray()
}
