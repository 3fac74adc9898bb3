// Trains an exported training.onnx with nothing but ONNX Runtime's Java API: the loop of train.py. JSON by Jackson.
//
//   java -cp onnxruntime.jar:jackson-databind.jar:jackson-core.jar:jackson-annotations.jar examples/training_loop/Train.java FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]
import ai.onnxruntime.*;
import com.fasterxml.jackson.databind.*;
import java.nio.*;
import java.nio.file.*;
import java.util.*;

public class Train {
    static final List<String> PARTS = List.of("trainable", "adam_m", "adam_v");

    public static void main(String[] given) throws Exception {
        String folder = given[0];
        int steps = given.length > 2 ? Integer.parseInt(given[2]) : 6, size = given.length > 3 ? Integer.parseInt(given[3]) : 3;
        float rate = given.length > 4 ? Float.parseFloat(given[4]) : 1e-3f;
        List<JsonNode> rows = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(given[1]))) rows.add(new ObjectMapper().readTree(line));

        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        OrtSession session = environment.createSession(folder + "/training.onnx");
        OrtSession.Result before = environment.createSession(folder + "/initial.onnx").run(Map.of());
        for (int step = 1; step <= steps; step++) {
            Map<String, OnnxTensor> feeds = new HashMap<>();
            for (String part : PARTS) feeds.put(part, (OnnxTensor) before.get(step == 1 ? part : part + "_next").get());
            feeds.put("step", OnnxTensor.createTensor(environment, (long) step));
            feeds.put("learning_rate", OnnxTensor.createTensor(environment, rate));
            for (String name : List.of("input_ids", "attention_mask", "labels", "position_ids")) {
                if (!session.getInputNames().contains(name)) continue;
                long[][] numbers = new long[size][];
                for (int i = 0; i < size; i++) numbers[i] = column(rows.get(((step - 1) * size + i) % rows.size()), name);
                feeds.put(name, OnnxTensor.createTensor(environment, numbers));
            }
            OrtSession.Result out = session.run(feeds);
            before.close();
            before = out;
            System.out.printf(Locale.ROOT, "{\"step\": %d, \"loss\": %s}%n", step, out.get("loss").get().getValue());
        }
    }

    static long[] column(JsonNode row, String name) {
        JsonNode numbers = row.get(row.has(name) ? name : "attention_mask");
        long[] all = new long[numbers.size()];
        long seen = 0;
        for (int i = 0; i < all.length; i++) {
            seen += numbers.get(i).asLong();
            all[i] = row.has(name) ? numbers.get(i).asLong() : Math.max(seen - 1, 0);
        }
        return all;
    }
}
