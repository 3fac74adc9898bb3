// Trains an exported training.onnx with nothing but Microsoft.ML.OnnxRuntime: the loop of train.py.
//
//   dotnet new console -o loop && cd loop && dotnet add package Microsoft.ML.OnnxRuntime && cp ../examples/training_loop/Train.cs Program.cs
//   dotnet run FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Microsoft.ML.OnnxRuntime;

static class Train
{
    static readonly string[] Parts = { "trainable", "adam_m", "adam_v" };
    static readonly string[] Wanted = { "loss", "trainable_next", "adam_m_next", "adam_v_next" };

    static void Main(string[] given)
    {
        var folder = given[0];
        var rows = File.ReadAllLines(given[1]).Where(line => line != "").ToArray();
        int steps = given.Length > 2 ? int.Parse(given[2]) : 6, size = given.Length > 3 ? int.Parse(given[3]) : 3;
        float rate = given.Length > 4 ? float.Parse(given[4], CultureInfo.InvariantCulture) : 1e-3f;

        var options = new RunOptions();
        var session = new InferenceSession(Path.Combine(folder, "training.onnx"));
        var initial = new InferenceSession(Path.Combine(folder, "initial.onnx"));
        var state = initial.Run(options, new Dictionary<string, OrtValue>(), Parts).ToArray();
        for (int step = 1; step <= steps; step++)
        {
            var feeds = new Dictionary<string, OrtValue>();
            for (int i = 0; i < Parts.Length; i++) feeds[Parts[i]] = state[i];
            feeds["step"] = OrtValue.CreateTensorValueFromMemory(new long[] { step }, new long[0]);
            feeds["learning_rate"] = OrtValue.CreateTensorValueFromMemory(new float[] { rate }, new long[0]);
            foreach (var name in new[] { "input_ids", "attention_mask", "labels", "position_ids" }.Where(session.InputMetadata.ContainsKey))
            {
                var numbers = Enumerable.Range(0, size).SelectMany(i => Column(rows[((step - 1) * size + i) % rows.Length], name)).ToArray();
                feeds[name] = OrtValue.CreateTensorValueFromMemory(numbers, new long[] { size, numbers.Length / size });
            }
            var found = session.Run(options, feeds, Wanted).ToArray();
            foreach (var value in feeds.Values) value.Dispose();
            state = found.Skip(1).ToArray();
            Console.WriteLine("{{\"step\": {0}, \"loss\": {1}}}", step, found[0].GetTensorDataAsSpan<float>()[0].ToString("R", CultureInfo.InvariantCulture));
        }
    }

    // The numbers of a row's column; positions count what the mask lets through, from 0.
    static long[] Column(string row, string name)
    {
        var found = Regex.Match(row, "\"" + name + "\": *\\[([^\\]]*)\\]");
        if (found.Success) return found.Groups[1].Value.Split(',').Select(long.Parse).ToArray();
        long seen = 0;
        return Column(row, "attention_mask").Select(mask => Math.Max((seen += mask) - 1, 0)).ToArray();
    }
}
