// Trains an exported training.onnx with nothing but ONNX Runtime's package for Swift: the loop of train.py.
// Written after the headers of that package; of the loops here it is the one that was neither compiled nor run.
//
//   In a package or an app of Xcode: microsoft/onnxruntime-swift-package-manager, product onnxruntime (of CocoaPods: onnxruntime-objc, and `import onnxruntime_objc`)
//   swift run Train FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]        # this file as Sources/Train/main.swift
import Foundation
import OnnxRuntimeBindings

/// The numbers of a row's column; positions count what the mask lets through, from 0.
func column(_ row: [String: [Int64]], _ name: String) -> [Int64] {
    if let numbers = row[name] { return numbers }
    var seen: Int64 = 0
    return row["attention_mask"]!.map { mask in
        seen += mask
        return max(seen - 1, 0)
    }
}

func tensor<Number>(_ numbers: [Number], _ type: ORTTensorElementDataType, _ shape: [Int]) throws -> ORTValue {
    let bytes = numbers.withUnsafeBytes { Data($0) }
    return try ORTValue(tensorData: NSMutableData(data: bytes), elementType: type, shape: shape.map { NSNumber(value: $0) })
}

let given = CommandLine.arguments.dropFirst().map { $0 }
let folder = given[0]
let lines = try String(contentsOfFile: given[1], encoding: .utf8).split(separator: "\n")
let rows = try lines.map { try JSONDecoder().decode([String: [Int64]].self, from: Data($0.utf8)) }
let steps = given.count > 2 ? Int(given[2])! : 6, size = given.count > 3 ? Int(given[3])! : 3
let rate = given.count > 4 ? Float(given[4])! : 1e-3

let parts = ["trainable", "adam_m", "adam_v"]
let environment = try ORTEnv(loggingLevel: .warning)
let session = try ORTSession(env: environment, modelPath: folder + "/training.onnx", sessionOptions: nil)
let initial = try ORTSession(env: environment, modelPath: folder + "/initial.onnx", sessionOptions: nil)
let inputs = try Set(session.inputNames())
var state = try initial.run(withInputs: [:], outputNames: Set(parts), runOptions: nil)
for step in 1...steps {
    var feeds = state
    feeds["step"] = try tensor([Int64(step)], .int64, [])
    feeds["learning_rate"] = try tensor([rate], .float, [])
    for name in ["input_ids", "attention_mask", "labels", "position_ids"] where inputs.contains(name) {
        let numbers = (0..<size).flatMap { column(rows[((step - 1) * size + $0) % rows.count], name) }
        feeds[name] = try tensor(numbers, .int64, [size, numbers.count / size])
    }
    let wanted = Set(["loss"] + parts.map { $0 + "_next" })
    let found = try session.run(withInputs: feeds, outputNames: wanted, runOptions: nil)
    state = Dictionary(uniqueKeysWithValues: parts.map { ($0, found[$0 + "_next"]!) })
    let loss = try found["loss"]!.tensorData().bytes.load(as: Float.self)
    print("{\"step\": \(step), \"loss\": \(loss)}")
}
